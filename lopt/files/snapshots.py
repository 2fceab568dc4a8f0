"""Snapshots: everything a run needs to continue bit for bit, saved with orbax.

A snapshot of step N is the folder `checkpoints/N`. It is written under another name and
renamed when it is whole, and it is renamed away before it is deleted: a folder whose name
is a number is complete, whenever the process was killed. Arrays are stored flat, by
names such as `theta/bias` or `estimator_states/0/params/w0`.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from lopt.errors import CheckpointError

State = TypeVar("State")

MANIFEST = "sizes.json"
"""Lists a snapshot's files: orbax meets a truncated one with a page of messages."""


def steps(folder: Path) -> list[int]:
    """The steps that have a complete snapshot, in order; [] for an absent folder."""
    if not folder.is_dir():
        return []
    names = (entry.name for entry in folder.iterdir() if entry.is_dir())
    return sorted(int(name) for name in names if name.isdecimal())


def save(folder: Path, step: int, state: Any, *, keep: int) -> None:
    """Saves `state` as the snapshot of `step` and prunes to the newest `keep`.

    Raises:
      CheckpointError: the disk refused; the earlier snapshots stay as they were.
    """
    unfinished = folder / f".saving-{step}"
    arrays = {name: np.asarray(x) for name, x in _named(state).items()}
    # orbax refuses arrays of size zero; `restore` takes them from its template.
    arrays = {name: x for name, x in arrays.items() if x.size}
    try:
        _discard_unfinished(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with _quietly(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
            writer.save(unfinished.absolute(), args=ocp.args.StandardSave(arrays))
        (unfinished / MANIFEST).write_text(json.dumps(_sizes(unfinished)))
        if (folder / str(step)).exists():
            _remove(folder / str(step))
        os.replace(unfinished, folder / str(step))
        for old in steps(folder)[:-keep]:
            _remove(folder / str(old))
    # orbax and tensorstore wrap what the disk says in several kinds of error.
    except (OSError, ValueError, RuntimeError) as error:
        _discard_unfinished(folder)
        raise CheckpointError(
            f"cannot save step {step} in `{folder}`: {_reason(error)}",
            hint="earlier checkpoints are untouched: make room and `--resume`",
        ) from error


def restore(folder: Path, step: int, template: State) -> State:
    """The snapshot of `step`, with the structure, shapes and dtypes of `template`.

    Args:
      folder: a run's `checkpoints`.
      step: one of `steps(folder)`.
      template: a pytree of arrays or of `jax.ShapeDtypeStruct`s.

    Raises:
      CheckpointError: the snapshot is damaged, or is of another kind of state.
    """
    saved = _read(folder / str(step))
    expected = _named(template)
    for name in expected | saved:
        have, want = saved.get(name), expected.get(name)
        if want is not None and have is None and 0 in want.shape:
            saved[name] = np.zeros(want.shape, want.dtype)
        elif want is None or have is None:
            raise _mismatch(folder, step, name, "missing" if have is None else "unknown")
        elif (have.shape, have.dtype) != (tuple(want.shape), want.dtype):
            rule = f"{have.dtype}{list(have.shape)}, not {want.dtype}{list(want.shape)}"
            raise _mismatch(folder, step, name, rule)
    leaves = [
        _as_leaf(saved[name], leaf)
        for name, leaf in zip(expected, jax.tree.leaves(template), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def read_part(snapshot: Path, part: str) -> dict[str, np.ndarray]:
    """The arrays of one part of the state, e.g. "theta", by their `/`-joined names.

    Args:
      snapshot: the folder of one snapshot.
      part: the state's field; a state that lacks it has no arrays.
    """
    prefix = f"{part}/"
    saved = _read(snapshot, prefix)
    return {name.removeprefix(prefix): x for name, x in saved.items()}


def _named(state: Any) -> dict[str, Any]:
    """The leaves by name; typed keys as their raw data, which is what can be stored."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): _raw(leaf)
        for path, leaf in flat
    }
    if len(named) != len(flat):
        raise ValueError("two leaves of the state have the same name")
    return named


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw(leaf: Any) -> Any:
    if not _is_key(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.random.key_data(leaf)


def _as_leaf(value: np.ndarray, leaf: Any) -> jax.Array:
    array = jax.device_put(value)
    return jax.random.wrap_key_data(array) if _is_key(leaf) else array


def _read(snapshot: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """The stored arrays whose names start with `prefix`."""
    if not snapshot.is_dir():
        raise CheckpointError(f"no checkpoint `{snapshot}`")
    try:
        if json.loads((snapshot / MANIFEST).read_bytes()) != _sizes(snapshot):
            raise ValueError("one of its files is missing or truncated")
        with _quietly(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            metadata = reader.metadata(snapshot.absolute()).item_metadata
            wanted = {name: 0 for name in metadata.tree if name.startswith(prefix)}
            args = ocp.args.PyTreeRestore(item=wanted, partial_restore=True)
            return reader.restore(snapshot.absolute(), args=args)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"checkpoint `{snapshot}` cannot be read: {str(error).splitlines()[0]}",
            hint="delete that folder: the run then continues from the one before",
        ) from error


def _sizes(snapshot: Path) -> dict[str, int]:
    """The size in bytes of every file but the manifest, by relative path."""
    files = (path for path in snapshot.rglob("*") if path.is_file())
    sizes = {str(path.relative_to(snapshot)): path.stat().st_size for path in files}
    return {name: size for name, size in sizes.items() if name != MANIFEST}


def _mismatch(folder: Path, step: int, name: str, rule: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint `{folder / str(step)}` does not fit this run: `{name}` is {rule}",
        hint="it was made by another version or another suite: start a new run",
    )


def _remove(snapshot: Path) -> None:
    """Deletes a snapshot; killed midway, it leaves no folder that looks complete."""
    trash = snapshot.with_name(f".trash-{snapshot.name}")
    os.replace(snapshot, trash)
    shutil.rmtree(trash)


def _discard_unfinished(folder: Path) -> None:
    """Deletes what earlier kills left behind."""
    for pattern in (".saving-*", ".trash-*"):
        for leftover in folder.glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps orbax from logging what we raise, and what it is doing meanwhile."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(error: Exception) -> str:
    """Why the disk refused, in a few words; tensorstore tells it at length."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    number = int(code[1]) if code else getattr(error, "errno", None)
    return os.strerror(number).lower() if number else str(error).splitlines()[0]
