"""CIFAR-10 and CIFAR-100 in their "binary version", from cs.toronto.edu/~kriz/cifar.html.

A record has a label (CIFAR-100: that of one of 20 groups, then that of the class, which
is what is read) and 3072 bytes: 32x32 pixels of red, then of green, then of blue.
(Krizhevsky, Learning multiple layers of features from tiny images, 2009.)
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lopt.disk.source import Part, check_size, damaged, reading
from lopt.errors import ConfigError

_COLORS, _SIDE = 3, 32
_PIXELS = _COLORS * _SIDE * _SIDE


@dataclass(frozen=True, kw_only=True)
class Form:
    """A version of the set.

    Attributes:
      train: the names of the files, all of one length.
      test: the name of the file of the test split.
      classes: how many there are of each label of a record.
    """

    train: tuple[str, ...]
    test: str
    classes: tuple[int, ...]


FORMS = (
    Form(
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test="test_batch.bin",
        classes=(10,),
    ),
    Form(train=("train.bin",), test="test.bin", classes=(20, 100)),
)


def read(folder: Path, form: Form) -> list[Part]:
    """The train and the test part.

    Raises:
      ConfigError: a file is absent or not what it should be.
    """
    paths = [folder / name for name in (*form.train, form.test)]
    for path in paths:
        if not path.is_file():
            rule = "must have all files of the binary version of CIFAR"
            raise ConfigError(f"`{folder}` {rule}, got no `{path.name}`")
        with reading(path, "CIFAR"):
            size = path.stat().st_size
            first = paths[0].stat().st_size
        check_size(path, (len(paths), size))
        if path.name in form.train and size != first:
            rule = f"must be as long as `{paths[0].name}`, {first} bytes"
            raise damaged(path, f"{rule}, got {size}")
    *train, test = [_read(path, form) for path in paths]
    x, y = (np.concatenate([getattr(part, name) for part in train]) for name in "xy")
    return [Part(folder / form.train[0] if len(train) == 1 else folder, x, y), test]


def _read(path: Path, form: Form) -> Part:
    length = len(form.classes) + _PIXELS
    with reading(path, "CIFAR"):
        content = path.read_bytes()
    if len(content) % length or not content:
        rule = f"must be a multiple of {length} bytes long"
        raise damaged(path, f"{rule}, got {len(content)}")
    records = np.frombuffer(content, np.uint8).reshape(-1, length)
    *groups, labels = records[:, : len(form.classes)].T
    for values, most in zip((*groups, labels), form.classes, strict=True):
        wrong = np.flatnonzero(values >= most)
        if len(wrong):
            got = f"{values[wrong[0]]} in example {wrong[0]}"
            raise damaged(path, f"must have labels below {most}, got {got}")
    x = records[:, len(form.classes) :].reshape(-1, _COLORS, _SIDE, _SIDE)
    return Part(path, x.transpose(0, 2, 3, 1), labels)
