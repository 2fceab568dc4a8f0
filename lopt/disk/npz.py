"""`.npz` files, what `numpy.savez("set.npz", x=x, y=y)` writes.

`x` are numbers: [N, D], a table; [N, H, W] or [N, H, W, C], images. `y` are integers [N],
classes counted from 0 or from 1; or floats [N] or [N, K], targets. A set with a test
split of its own has it in `x_test` and `y_test`. Other arrays are not read, and neither
are objects: these are pickles.
"""

import io
import math
import struct
import zipfile
from pathlib import Path

import numpy as np

from lopt.disk import source
from lopt.disk.records import Stretch, stretch
from lopt.disk.source import LARGEST, Part, brief, check_size, damaged, reading
from lopt.errors import ConfigError

_LONGEST_HEADER = 10_000  # numpy reads none that is longer
_LENGTHS = range(26, 30)  # where a member's header states what follows it
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read(path: Path) -> list[Part]:
    """The train part, and the test part if there is one.

    Raises:
      ConfigError: an array is absent or of another kind, or the file is damaged.
    """
    with reading(path, "npz"), zipfile.ZipFile(path) as file:
        names = {name.removesuffix(".npy") for name in file.namelist()}
        pairs = [("x", "y"), ("x_test", "y_test")]
        pairs = pairs if names.intersection(pairs[1]) else pairs[:1]
        for name in (name for pair in pairs for name in pair):
            if name not in names:
                got = brief(", ".join(sorted(names))) or "nothing"
                raise ConfigError(
                    f"`{path}` must have an array `{name}`, got {got}",
                    hint="write it by `numpy.savez(FILE, x=..., y=...)`, and a test "
                    "split as `x_test` and `y_test`",
                )
        return [
            Part(
                path,
                inputs(path, x, _stored(path, file, x) or _read(path, file, x)),
                labels(path, y, _read(path, file, y)),
            )
            for x, y in pairs
        ]


def inputs(path: Path, name: str, x: np.ndarray | Stretch) -> np.ndarray | Stretch:
    """An array as [N, D], or images [N, H, W, C].

    Raises:
      ConfigError: it is of another kind.
    """
    if x.dtype.kind not in "uif" or x.ndim not in (2, 3, 4):
        shapes = "[N, D], [N, H, W] or [N, H, W, C]"
        raise _misshapen(path, name, f"be numbers of shape {shapes}", x)
    return x.reshape(*x.shape, 1) if x.ndim == 3 else x


def labels(path: Path, name: str, y: np.ndarray) -> np.ndarray:
    """An array as [N], integers, or [N, K], floats.

    Raises:
      ConfigError: it is of another kind.
    """
    if y.dtype.kind == "f" and y.ndim in (1, 2):
        return y[:, None] if y.ndim == 1 else y
    if y.dtype.kind not in "ui" or y.ndim != 1:
        rule = "be integers of shape [N] (classes) or floats of shape [N] or [N, K]"
        raise _misshapen(path, name, f"{rule} (targets)", y)
    return y


def _misshapen(
    path: Path, name: str, rule: str, array: np.ndarray | Stretch
) -> ConfigError:
    got = f"{array.dtype}{list(array.shape)}"
    return ConfigError(f"`{name}` of `{path}` must {rule}, got {got}")


def _stored(path: Path, file: zipfile.ZipFile, name: str) -> Stretch | None:
    """An array too large for the memory that can stay on disk: not packed, row by row."""
    info = file.getinfo(f"{name}.npy")
    with file.open(info) as member:
        content = io.BytesIO(member.read(min(info.file_size, _LONGEST_HEADER)))
    shape, fortran, kind = _header(path, name, content)
    packed = info.compress_type != zipfile.ZIP_STORED
    size = math.prod(shape) * kind.itemsize
    if packed or fortran or math.prod(shape) <= source.LARGEST:
        return None
    _check_length(path, name, size, info.file_size - content.tell())
    with open(path, "rb") as whole:
        whole.seek(info.header_offset + _LENGTHS.start)
        # The array comes after the member's own header, name and extra field.
        lengths = struct.unpack("<HH", whole.read(4))
        start = info.header_offset + _LENGTHS.stop + sum(lengths) + content.tell()
        return stretch(path, whole, start, shape, kind)


def _read(path: Path, file: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array whose header, size and kind have been looked at before it is read."""
    info = file.getinfo(f"{name}.npy")
    if info.file_size > 8 * LARGEST + _LONGEST_HEADER:
        check_size(path, (info.file_size // 8,))
    with file.open(info) as member:
        # No more than is stated, whatever it unpacks to; the checksum is looked at, too.
        content = io.BytesIO(member.read(info.file_size))
    shape, fortran, kind = _header(path, name, content)
    check_size(path, shape)
    size, rest = math.prod(shape) * kind.itemsize, content.read()
    _check_length(path, name, size, len(rest))
    return np.frombuffer(rest, kind).reshape(shape, order="F" if fortran else "C")


def _header(path: Path, name: str, content: io.BytesIO):
    """Shape, order and type of an array, from its first bytes."""
    version = np.lib.format.read_magic(content)
    if version not in _HEADERS:
        raise ValueError(f"`{name}` is of version {version} of the format")
    found = _HEADERS[version](content)
    if found[2].hasobject:
        raise ConfigError(
            f"`{path}` must have numbers in `{name}`, got objects, which are pickles and "
            "can run any code when they are read",
            hint="convert them: `x.astype(numpy.float32)`",
        )
    return found


def _check_length(path: Path, name: str, size: int, got: int) -> None:
    if got != size:
        rule = f"must have {size} bytes in `{name}`, as its header states"
        raise damaged(path, f"{rule}, got {got}")
