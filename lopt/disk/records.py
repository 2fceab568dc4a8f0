"""Inputs that stay on disk, of examples of one length, read where they are asked for.

By `read`, not by a memory map: to look beyond the end of a file that shrank would end the
process instead of raising an error.
"""

import io
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lopt.disk.source import check_finite, check_size, damaged, reading
from lopt.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class Stretch:
    """Examples one after the other in a file; like an array that only indices index.

    Attributes:
      path: the file.
      start: bytes before the first example.
      shape: [n, ...].
      dtype: of the numbers.
      stamp: what tells whether the file is what it was: bytes, and nanoseconds.
    """

    path: Path
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype
    stamp: tuple[int, int]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Of an array of this shape."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Likewise."""
        return math.prod(self.shape)

    def reshape(self, *shape: int) -> "Stretch":
        """The same examples; only the shape of each may change."""
        return replace(self, shape=shape)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """These examples, [len(indices), ...].

        Raises:
          ConfigError: they are more than memory should hold, not finite, or the file is
            not what it was.
        """
        shape = len(indices), *self.shape[1:]
        check_size(self.path, shape)
        found = np.empty((len(indices), math.prod(self.shape[1:])), self.dtype)
        rows = found.view(np.uint8)
        with reading(self.path, "dataset"), open(self.path, "rb", buffering=0) as file:
            whole = True
            for row, i in zip(rows, indices, strict=True):
                file.seek(self.start + int(i) * rows.shape[1])
                whole = whole and file.readinto(row.data) == len(row)
            now = stamp_of(file)
        if not whole or now != self.stamp:
            raise ConfigError(
                f"`{self.path}` must stay as it is while it is streamed, got a change: "
                f"{now[0]} bytes, {self.stamp[0]} before",
                hint="put the file back and resume the run, or start another",
            )
        check_finite(self.path, "x", found, indices)
        return found.reshape(shape)


def stretch(
    path: Path, file: io.IOBase, start: int, shape: tuple[int, ...], dtype: np.dtype
) -> Stretch:
    """What lies from `start` in an open file.

    Raises:
      ConfigError: the file ends before.
    """
    stamp = stamp_of(file)
    missing = start + math.prod(shape) * dtype.itemsize - stamp[0]
    if missing > 0:
        raise damaged(path, f"must have {stamp[0] + missing} bytes, got {stamp[0]}")
    return Stretch(path=path, start=start, shape=shape, dtype=dtype, stamp=stamp)


def stamp_of(file: io.IOBase) -> tuple[int, int]:
    """Bytes of an open file, and when it was last written, in nanoseconds."""
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns
