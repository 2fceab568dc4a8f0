"""Folders that Hugging Face's `datasets` has saved: `data.save_to_disk(FOLDER)`.

Read are the columns `image` (of the feature `Image`, the files inside) and `label`; or
`x` and `y`, as of an `.npz`; or, where a text is read, `text`, a line for each row. Of a
`DatasetDict` the split `train` is read, and `test`, where there is one, is the test
split; other splits and columns are not read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lopt.disk import images, npz
from lopt.disk.source import Part, brief, check_size, reading
from lopt.errors import ConfigError


def is_saved(path: Path, names: set[str]) -> bool:
    """Whether a path, with files of these names in it, is such a folder."""
    one = {"state.json", "dataset_info.json"} <= names
    return path.is_dir() and (one or "dataset_dict.json" in names)


def read(folder: Path) -> list[Part]:
    """The train part, and the test part if there is one.

    Raises:
      ConfigError: columns are absent or of another kind, something is damaged, or
        `datasets` cannot be imported.
    """
    sets = _load(folder)
    if all({"image", "label"} <= {*rows.column_names} for rows in sets.values()):
        xs = images.decoded(folder, [_files(place, rows) for place, rows in sets.items()])
        labels = "label"
    else:
        xs = [npz.inputs(at, "x", _column(at, rows, "x")) for at, rows in sets.items()]
        labels = "y"
    ys = [npz.labels(at, labels, _column(at, rows, labels)) for at, rows in sets.items()]
    return [Part(*part) for part in zip(sets, xs, ys, strict=True)]


def read_text(folder: Path) -> list[bytes]:
    """The train text, and the test text if there is one; raises what `read` does."""
    texts = []
    for place, rows in _load(folder).items():
        _check_column(place, rows, "text")
        with _reading(place):
            lines = rows[:]["text"]
        if not all(isinstance(line, str) for line in lines):
            raise ConfigError(f"`{place}` must have strings in `text`, got other values")
        texts.append("\n".join(lines).encode())
    return texts


def _load(folder: Path) -> dict[Path, Any]:
    """The rows of the train split, and of the test split if there is one, by folder."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        what = "was saved by Hugging Face's `datasets`, which cannot be imported"
        hint = "`pip install 'lopt[datasets]'`"
        raise ConfigError(f"`{folder}` {what} ({error})", hint=hint) from None
    with _reading(folder):
        found = datasets.load_from_disk(str(folder))
        found = found.with_format(None)  # which may be another package's arrays
    if isinstance(found, datasets.Dataset):
        return {folder: found}
    if "train" not in found:
        got = brief(", ".join(found)) or "none"
        raise ConfigError(f"`{folder}` must have a split `train`, got {got}")
    return {folder / name: found[name] for name in ("train", "test") if name in found}


@contextmanager
def _reading(place: Path) -> Iterator[None]:
    """`reading`, of what Arrow complains about, too."""
    from pyarrow import ArrowException  # pyright: ignore[reportMissingImports]

    with reading(place, "dataset"):
        try:
            yield
        except ArrowException as error:
            raise ValueError(str(error)) from error


def _check_column(place: Path, rows: Any, name: str) -> None:
    if name not in rows.column_names:
        got = brief(", ".join(rows.column_names)) or "none"
        hint = "columns that lopt reads: `image` and `label`, `x` and `y`, or `text`"
        raise ConfigError(f"`{place}` must have a column `{name}`, got {got}", hint=hint)


def _column(place: Path, rows: Any, name: str) -> np.ndarray:
    """As an array; of objects, which are refused later, where rows differ in shape."""
    _check_column(place, rows, name)
    with _reading(place):
        rows = rows.select_columns([name]).with_format("numpy")
        check_size(place, (len(rows), np.size(rows[0][name])))
        return np.asarray(rows[:][name])


def _files(place: Path, rows: Any) -> list[images.Image]:
    """The files inside, undecoded: `datasets` would follow paths, and those to a net."""
    from datasets import Image  # pyright: ignore[reportMissingImports]

    if not isinstance(rows.features["image"], Image):
        got = type(rows.features["image"]).__name__
        raise ConfigError(f"`{place}` must have `Image`s in `image`, got `{got}`")
    with _reading(place):
        cells = rows.cast_column("image", Image(decode=False))[:]["image"]
    for i, cell in enumerate(cells):
        if not (cell and cell["bytes"]):
            raise ConfigError(f"`{place}` must have images inside, got none in row {i}")
    return [(Path(f"{place}:{i}"), cell["bytes"]) for i, cell in enumerate(cells)]
