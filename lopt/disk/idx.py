"""IDX files, the format of MNIST and of its relatives, plain or gzip.

A magic number of four bytes: 0, 0, the type (8: unsigned bytes), the number of
dimensions; then each dimension as a big-endian integer of four bytes; then the bytes.
(LeCun, Cortes, Burges, The MNIST database of handwritten digits, 1998.)
"""

import gzip
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from lopt.disk import source
from lopt.disk.records import stretch
from lopt.disk.source import Part, check_size, damaged, reading
from lopt.errors import ConfigError

_IMAGES = re.compile(r".*images[-.]idx3-ubyte(\.gz)?")
_TEST = re.compile(r"(.*\W)?(t10k|test)\W")
_GZIP = b"\x1f\x8b"


def is_images(path: Path) -> bool:
    """Whether a file is called as the images of such a set are."""
    return _IMAGES.fullmatch(path.name) is not None


def read(images: list[Path], place: Path) -> list[Part]:
    """The parts of a set: one pair of files, or that of `train` and that of `t10k`.

    Args:
      images: the files of images that are there, sorted.
      place: where they are.

    Raises:
      ConfigError: there are other pairs, or a file is not what it should be.
    """
    # Of a file that is there both plain and packed, the first, which is the plain one.
    sets = {path.name.rpartition("images")[0]: path for path in reversed(images)}
    order = sorted(sets, key=lambda name: _TEST.fullmatch(name) is not None)
    if len(order) > 2 or (len(order) == 2 and not _is_train_and_test(*order)):
        raise ConfigError(
            f"`{place}` must have one set, or `train` and `t10k`, got "
            + ", ".join(f"`{path.name}`" for path in images),
            hint="give the path of one of these files of images",
        )
    return [_read_pair(sets[name]) for name in order]


def _is_train_and_test(one: str, other: str) -> bool:
    return not _TEST.fullmatch(one) and _TEST.fullmatch(other) is not None


def _read_pair(images: Path) -> Part:
    before, _, after = images.name.removesuffix(".gz").rpartition("images")
    name = f"{before}labels{after.replace('idx3', 'idx1')}"
    candidates = [images.with_name(name), images.with_name(f"{name}.gz")]
    labels = next((path for path in candidates if path.exists()), None)
    if labels is None:
        raise ConfigError(
            f"`{images}` must have its labels beside it, got no `{name}` and no "
            f"`{name}.gz`",
            hint="copy or download that file, too",
        )
    x, y = _read(images, rank=3, may_stay=True), _read(labels, rank=1)
    if len(x) != len(y):
        rule = f"must have a label for each of the {len(x)} images of `{images.name}`"
        raise damaged(labels, f"{rule}, got {len(y)}")
    return Part(labels, x.reshape(*x.shape, 1), y)


def _read(path: Path, *, rank: int, may_stay: bool = False) -> Any:
    """The bytes of a file, in the shape that its header states.

    Too many for the memory stay on disk if they may, and are not packed.
    """
    length = 4 * (1 + rank)
    with reading(path, "gzip"), open(path, "rb") as raw:
        packed = raw.read(2) == _GZIP  # by content: browsers unpack, and keep the name
        raw.seek(0)
        file = gzip.GzipFile(fileobj=raw) if packed else raw
        header = file.read(length)
        if len(header) < length:
            rule = f"must have a header of {length} bytes"
            raise damaged(path, f"{rule}, got {len(header)}")
        magic, *shape = struct.unpack(f">{1 + rank}I", header)
        if magic != 0x0800 + rank:
            rule = f"must begin with the magic number 0x{0x0800 + rank:08x}"
            raise damaged(path, f"{rule}, got 0x{magic:08x}")
        if may_stay and not packed and math.prod(shape) > source.LARGEST:
            return stretch(path, raw, length, tuple(shape), np.dtype(np.uint8))
        check_size(path, tuple(shape))
        size = math.prod(shape)
        # One more than there should be: what is too long is found, but not unpacked.
        content = file.read(size + 1)
    if len(content) != size:
        got = "more" if len(content) > size else len(content)
        raise damaged(path, f"must have {size} bytes after its header, got {got}")
    return np.frombuffer(content, np.uint8).reshape(shape)
