"""The exported file: safetensors weights plus one JSON header, and nothing executable.

One file is a whole learned optimizer. The tensors are theta, flattened, names joined by
`/`. The safetensors metadata has one key, `lopt`, whose value is a JSON object:

    {"format": "lopt", "format_version": 1,
     "optimizer": {"name": "layerwise", "options": {every constant, resolved},
                   "file_hash": SHA-256 of the Python file that defines it},
     "mup_base": null or {what the widths of the training tasks were compared with},
     "card": {"suite", "outer_steps", "seed", "versions", "git_commit", "cost", "date",
              "evaluation", ...}}

Readers ignore keys they do not know; a change that they may not ignore raises
`FORMAT_VERSION`. This module needs numpy and safetensors alone: readers in other
frameworks use it without importing jax.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from lopt.errors import CheckpointError

FORMAT = "lopt"
FORMAT_VERSION = 1
METADATA_KEY = "lopt"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says about its weights.

    Attributes:
      optimizer: a name in `OPTIMIZERS`, an entry point, or `file.py:factory`.
      options: every keyword argument of that factory.
      mup_base: what width multipliers were relative to in meta-training, if anything.
      card: how the weights were made: suite, steps, seed, versions, cost, evaluation.
      file_hash: SHA-256 of `file.py` as it was in meta-training.
    """

    optimizer: str
    options: dict[str, Any]
    mup_base: dict[str, Any] | None = None
    card: dict[str, Any] = field(default_factory=dict)
    file_hash: str | None = None


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a nested dict by their `/`-joined names."""
    flat = {}
    for key, value in tree.items():
        if "/" in key:
            raise ValueError(f"a name in theta must not contain `/`, got `{key}`")
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def write(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    header: Header,
    *,
    overwrite: bool = False,
) -> None:
    """Writes an exported file; the errors of `write_file`."""
    write_file(path, encoded(tensors, header), overwrite=overwrite)


def content(header: Header) -> dict[str, Any]:
    """The JSON object that the header is in a file."""
    optimizer = {"name": header.optimizer, "options": header.options}
    if header.file_hash is not None:
        optimizer["file_hash"] = header.file_hash
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "optimizer": optimizer,
        "mup_base": header.mup_base,
        "card": header.card,
    }


def encoded(tensors: Mapping[str, np.ndarray], header: Header) -> bytes:
    """An exported file."""
    arrays = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    text = json.dumps(content(header), sort_keys=True, allow_nan=False)
    return safetensors.numpy.save(arrays, {METADATA_KEY: text})


def check_free(path: Path, *, overwrite: bool = False) -> None:
    """Raises `CheckpointError` where a file may not be written."""
    if path.is_dir():
        raise CheckpointError(
            f"`{path}` is a folder, not a file to write", hint="name a file inside it"
        )
    if path.exists() and not overwrite:
        raise CheckpointError(
            f"`{path}` exists already", hint="choose another file, or pass `--force`"
        )


def write_file(path: Path, content: bytes, *, overwrite: bool = False) -> None:
    """Writes a file that someone asked for; it appears whole or not at all.

    Raises:
      CheckpointError: the file exists and `overwrite` is false, it is a folder, or the
        disk refuses; what was there stays as it was.
    """
    check_free(path, overwrite=overwrite)
    write_atomically(path, content)


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file's content in one step; a kill or a full disk changes nothing.

    Raises:
      CheckpointError: the operating system refused, for the reason in the message.
    """
    # In the same folder, because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_synced(temporary, content)
        os.replace(temporary, path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_folder(path: Path, parts: Mapping[str, bytes]) -> None:
    """Writes a folder of files; it appears whole or not at all.

    Raises:
      CheckpointError: something is there already, or the disk refuses.
    """
    if path.exists():
        raise CheckpointError(
            f"`{path}` exists already",
            hint="a folder is never replaced: choose another, or move that one away",
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        for name, data in parts.items():
            write_synced(temporary / name, data)
        os.rename(temporary, path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_synced(path: Path, content: bytes) -> None:
    """Writes a file and waits until the disk has it."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def disk_error(path: Path, error: OSError) -> CheckpointError:
    """The error for a write that the operating system refused."""
    reason = (error.strerror or str(error)).lower()
    return CheckpointError(
        f"cannot write `{path}`: {reason}",
        hint="what was there is untouched; make room or choose another place",
    )


def read(path: Path) -> tuple[dict[str, np.ndarray], Header]:
    """The tensors by name, and the header, of an exported file.

    Raises:
      CheckpointError: the file is absent, truncated, damaged, foreign or too new.
    """
    header = read_header(path)
    try:
        return safetensors.numpy.load_file(path), header
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error


def read_header(path: Path) -> Header:
    """The header alone; the errors of `read`."""
    if path.is_dir():
        raise CheckpointError(
            f"`{path}` is a folder, not an exported file",
            hint=f"make one from a run: `lopt export {path} -o FILE.safetensors`",
        )
    if not path.exists():
        raise CheckpointError(
            f"no file `{path}`", hint="released optimizers: `lopt list checkpoints`"
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return _parse(path, metadata)


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"`{path}` is not a whole safetensors file: {str(error).splitlines()[0]}",
        hint="it may be truncated: copy or download it again, or export it anew",
    )


def _parse(path: Path, metadata: Mapping[str, str]) -> Header:
    """The header from the metadata of a safetensors file."""
    foreign = CheckpointError(
        f"`{path}` has no lopt header: it is a safetensors file of something else",
        hint="make one with `lopt export RUN -o FILE.safetensors`",
    )
    if METADATA_KEY not in metadata:
        raise foreign
    try:
        content = json.loads(metadata[METADATA_KEY])
    except ValueError as error:
        raise foreign from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise foreign
    version = content.get("format_version")
    if type(version) is int and version > FORMAT_VERSION:
        raise CheckpointError(
            f"`{path}` has format version {version}, this lopt reads up to "
            f"{FORMAT_VERSION}",
            hint="upgrade: `pip install --upgrade lopt`",
        )
    try:
        _of_type(version, int)
        return Header(
            optimizer=_of_type(content["optimizer"]["name"], str),
            options=_of_type(content["optimizer"]["options"], dict),
            mup_base=_of_type(content.get("mup_base"), dict | None),
            card=_of_type(content.get("card", {}), dict),
            file_hash=_of_type(content["optimizer"].get("file_hash"), str | None),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"the lopt header of `{path}` is damaged: {error}",
            hint="export the file anew",
        ) from error


def _of_type(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind}, got {type(value).__name__}")
    return value
