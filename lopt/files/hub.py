"""A folder as the Hugging Face Hub keeps models: one exported optimizer, and its card.

    model.safetensors  the exported file (fileformat.py)
    config.json        its header, where the Hub and other programs look for it
    README.md          its card (model_card.py), to be edited

The exported file says everything by itself. A `config.json` that says something else, of
what an update is made of, is an error: one of the two was exchanged.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lopt.errors import CheckpointError
from lopt.files import fileformat, rundir
from lopt.files.fileformat import Header
from lopt.files.model_card import model_card

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def is_folder(path: Path) -> bool:
    """Whether it is such a folder, or was one before a part was lost."""
    if (path / rundir.RECORD).exists():
        return False  # a run, whatever has been put into it
    config = path / CONFIG
    mark = f'"format": "{fileformat.FORMAT}"'.encode()
    has_header = config.is_file() and mark in config.read_bytes()
    return has_header or (path / WEIGHTS).exists()


def write(path: Path, tensors: Mapping[str, np.ndarray], header: Header) -> None:
    """Writes the folder; it appears whole or not at all.

    Raises:
      CheckpointError: something is there already, or the disk refuses.
    """
    config = json.dumps(fileformat.content(header), indent=2, sort_keys=True)
    parts = {
        WEIGHTS: fileformat.encoded(tensors, header),
        CONFIG: f"{config}\n".encode(),
        CARD: model_card(path.name, header).encode(),
    }
    fileformat.write_folder(path, parts)


def read(path: Path) -> tuple[dict[str, np.ndarray], Header]:
    """The tensors by name, and the header, of an exported file or of such a folder.

    Raises:
      CheckpointError: as of `fileformat.read`; a part is missing, or they do not agree.
    """
    if not is_folder(path):
        return fileformat.read(path)
    for name in (WEIGHTS, CONFIG):
        if not (path / name).is_file():
            raise _damaged(f"`{path}` lacks `{name}`")
    tensors, header = fileformat.read(path / WEIGHTS)
    try:
        said = _decisive(json.loads((path / CONFIG).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = str(error).splitlines()[0]
        raise _damaged(f"`{path / CONFIG}` is damaged: {what}") from error
    if said != _decisive(fileformat.content(header)):
        raise _damaged(f"`{path / CONFIG}` is not of the `{WEIGHTS}` beside it")
    return tensors, header


def _decisive(content: dict[str, Any]) -> tuple[Any, ...]:
    """What an update is made of; cards may be edited."""
    return content["optimizer"], content["mup_base"]


def _damaged(message: str) -> CheckpointError:
    return CheckpointError(
        message, hint="copy or download the whole folder again, or export it anew"
    )
