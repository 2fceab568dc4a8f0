"""What every format is read into, the checks of all formats, and their complaints."""

import gzip
import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lopt.bundled import Raw
from lopt.errors import ConfigError

LARGEST = 2**28
"""Numbers of inputs in memory, at most, of a set or of a chunk of one that is streamed:
1 GiB as float32."""
FEWEST = 20
"""Examples that are split, at least: of fewer a split would have next to none."""
_HUGE = np.float64(1e18)  # its square is still a float32

_DAMAGE = (
    gzip.BadGzipFile,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    ArithmeticError,
    EOFError,
    LookupError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What damaged bytes can end in, in the readers of the standard library and numpy."""


class Part(NamedTuple):
    """A part of a dataset, and the file to blame for it."""

    file: Path
    x: Any  # [n, D], a table; or [n, H, W, C], images: an array, or a `Stretch` of a file
    y: np.ndarray  # [n], integers; or [n, K], targets


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs [N, D], in part on disk; like an array that only indices index."""

    parts: tuple[Any, ...]  # each [n, ...], as of a `Part`

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """These rows, [len(indices), D].

        Raises:
          ConfigError: as by `Stretch`.
        """
        ends = np.cumsum([len(part) for part in self.parts])
        owner = np.searchsorted(ends, indices, side="right")
        width = math.prod(self.parts[0].shape[1:])
        dtype = np.result_type(*[part.dtype for part in self.parts])
        found = np.empty((len(indices), width), dtype)
        for i, (part, end) in enumerate(zip(self.parts, ends, strict=True)):
            rows = part[indices[owner == i] - (end - len(part))]
            found[owner == i] = rows.reshape(len(rows), width)
        return found


def joined(train: Part, test: Part | None = None) -> Raw:
    """One or two parts of a dataset, looked over; classes are counted from 0.

    Raises:
      ConfigError: too few examples, numbers that are not finite, labels with gaps, ….
    """
    parts = [train] if test is None else [train, test]
    for part in parts:
        _check(part)
        for what, one, other in (("x", part.x, train.x), ("y", part.y, train.y)):
            kinds = {values.dtype.kind == "f" for values in (one, other)}
            if one.shape[1:] != other.shape[1:] or len(kinds) > 1:
                rule = f"must have `{what}` like that of `{train.file}`"
                got = f"{_shape(one)} and {_shape(other)}"
                raise ConfigError(f"`{part.file}` {rule}, got {got}")
    if len(train.y) < FEWEST:
        rule = f"must have at least {FEWEST} examples"
        raise ConfigError(f"`{train.file}` {rule}, got {len(train.y)}")
    targets_differ = train.y.ndim == 1 or np.ptp(train.y, axis=0).all()
    inputs_differ = _on_disk(train) or np.ptp(train.x)
    for what, differ in (("inputs", inputs_differ), ("targets", targets_differ)):
        if not differ:
            rule = f"must have {what} that differ"
            raise ConfigError(f"`{train.file}` {rule}, got all alike")
    y, image = np.concatenate([part.y for part in parts]), train.x.shape[1:]
    if any(map(_on_disk, parts)):
        x = Inputs(tuple(part.x for part in parts))
    else:
        x = np.concatenate([part.x for part in parts]).reshape(len(y), -1)
    return Raw(
        x=x,
        y=(y - _first_class(parts)).astype(np.int64) if y.ndim == 1 else y,
        group=np.arange(len(y)),
        image=image if len(image) == 3 else None,
        num_test=0 if test is None else len(test.y),
    )


def _check(part: Part) -> None:
    """The rules of one part: examples with labels, and numbers that are finite."""
    if not (part.x.size and part.y.size):
        got = f"`x` {_shape(part.x)} and `y` {_shape(part.y)}"
        raise ConfigError(f"`{part.file}` must have examples, got {got}")
    if len(part.x) != len(part.y):
        rule = f"must have labels for {len(part.x)} examples"
        raise ConfigError(f"`{part.file}` {rule}, got {len(part.y)}")
    for name, values in (("x", part.x), ("y", part.y)):
        if isinstance(values, np.ndarray):  # what stays on disk, where it is read
            check_finite(part.file, name, values)


def _on_disk(part: Part) -> bool:
    return not isinstance(part.x, np.ndarray)


def check_finite(
    path: Path, name: str, values: np.ndarray, numbers: np.ndarray | None = None
) -> None:
    """Refuses examples [n, ...] that are not finite, telling their `numbers`, if any."""
    if values.dtype.kind == "f":
        rows = values.reshape(len(values), -1)
        wrong = np.argwhere(~(np.abs(rows) <= _HUGE))  # nan, too
        if len(wrong):
            place = wrong[0][0] if numbers is None else numbers[wrong[0][0]]
            got = f"{rows[tuple(wrong[0])]} in example {place}"
            rule = f"must have in `{name}` finite numbers of at most {_HUGE:g}"
            raise ConfigError(f"`{path}` {rule}, got {got}")


def _first_class(parts: list[Part]) -> int:
    """0 or 1: what classes are counted from; labels must have no gap.

    A label that is damaged would otherwise be one more class, or 200 more.
    """
    known = np.unique(parts[0].y)
    first = int(known[0])
    rule = "must have labels that count the classes from 0 or from 1"
    for expected, label in enumerate(known, start=min(max(first, 0), 1)):
        if label != expected:
            got = f"{label} but no {expected}"
            raise ConfigError(f"`{parts[0].file}` {rule}, got {got}")
    if len(known) < 2:
        raise ConfigError(f"`{parts[0].file}` must have two classes or more, got 1")
    for part in parts[1:]:
        for label in np.setdiff1d(part.y, known):
            rule = f"must have labels that `{parts[0].file}` has, too"
            raise ConfigError(f"`{part.file}` {rule}, got {label}")
    return first


def check_size(path: Path, shape: tuple[int, ...]) -> None:
    """Refuses more numbers than a set may have, before room is made for them."""
    if math.prod(shape) > LARGEST:
        raise ConfigError(
            f"`{path}` must have at most {LARGEST} numbers, got "
            + " x ".join(map(str, shape)),
            hint="take fewer or smaller examples; larger sets stay on disk if they are "
            "plain IDX files, or an `.npz` that `numpy.savez` wrote",
        )


def damaged(path: Path, complaint: str) -> ConfigError:
    """The error for a file whose bytes break its format; `must …, got …`."""
    hint = "it may be truncated: copy or download it again"
    return ConfigError(f"`{path}` {complaint}", hint=hint)


def unreadable(path: Path, error: OSError) -> ConfigError:
    """The error for what the operating system does not let us read."""
    reason = (error.strerror or str(error)).lower()
    return ConfigError(f"cannot read `{path}`: {reason}", hint="check the path")


def reason_of(error: Exception) -> str:
    """What an exception says, as part of a line: damaged bytes can make it long."""
    return brief(str(error).rstrip(".")) or type(error).__name__


def brief(text: str) -> str:
    """A text of others in one line of at most 80 characters, all printable."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown if len(shown) <= 80 else shown[:77] + "..."


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turns what damaged bytes end in into one line about the file.

    Raises:
      ConfigError: the file cannot be read, or is not a whole file of this kind.
    """
    try:
        yield
    except (*_DAMAGE, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise unreadable(path, error) from None
        raise damaged(path, f"is not a whole {kind} file: {reason_of(error)}") from error


def _shape(values: np.ndarray) -> str:
    return f"{values.dtype}{list(values.shape)}"
