"""Small real datasets, written byte by byte to a folder, for tests of what reads them."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from lopt import disk
from lopt.errors import ConfigError

NUM_CLASSES = 3


def labels(num, classes=NUM_CLASSES):
    """All classes, again and again."""
    return np.arange(num) % classes


def pixels(num, *shape, seed=0):
    return np.random.RandomState(seed).randint(256, size=(num, *shape), dtype=np.uint8)


def idx(values):
    """The bytes of an IDX file of unsigned bytes."""
    values = np.asarray(values, np.uint8)
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


def write_idx(folder, x, y, *, prefix="train-", packed=False, dot="-"):
    """A pair of files; the path of the images."""
    folder.mkdir(exist_ok=True)
    paths = []
    for name, values in ((f"images{dot}idx3", x), (f"labels{dot}idx1", y)):
        path = folder / f"{prefix}{name}-ubyte{'.gz' if packed else ''}"
        content = idx(values)
        path.write_bytes(gzip.compress(content) if packed else content)
        paths.append(path)
    return paths[0]


def write_mnist(folder, *, num=30, num_test=6, packed=False):
    """The four usual files of images of 5x4 pixels; what they hold."""
    train = pixels(num, 5, 4), labels(num)
    test = pixels(num_test, 5, 4, seed=1), labels(num_test)
    write_idx(folder, *train, packed=packed)
    write_idx(folder, *test, prefix="t10k-", packed=packed)
    return train, test


def cifar(x, *columns):
    """The bytes of a CIFAR file: images [N, 32, 32, 3], columns of labels [N]."""
    record = [bytes(c) for c in np.stack(columns, axis=1).astype(np.uint8)]
    planes = [b"".join(image[..., c].tobytes() for c in range(3)) for image in x]
    return b"".join(r + p for r, p in zip(record, planes, strict=True))


def write_cifar10(folder, *, num=4):
    """Six files of `num` images each; all images and labels, the test batch last."""
    folder.mkdir(exist_ok=True)
    x, y = pixels(6 * num, 32, 32, 3), labels(6 * num, 10)
    y[-num:] = 9
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    for i, name in enumerate(names):
        part = slice(i * num, (i + 1) * num)
        (folder / name).write_bytes(cifar(x[part], y[part]))
    return x, y


def write_images(folder, *, num=7, classes=("cat", "dog", "eel"), mode="RGB", seed=0):
    """PNG files of 4x5 pixels in a folder for each class; what they hold, in order."""
    x, y = [], []
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        shape = (4, 5, 3) if mode == "RGB" else (4, 5)
        for i, image in enumerate(pixels(num, *shape, seed=seed + label)):
            Image.fromarray(image, mode=None).save(folder / name / f"{i}.png")
            x.append(image.reshape(-1))
            y.append(label)
    return np.array(x), np.array(y)


def table(num=40, width=4):
    """A table whose columns have scales of their own, and classes."""
    random = np.random.RandomState(0)
    return random.randn(num, width) * 10.0 ** np.arange(width), labels(num)


def complaint(path):
    with pytest.raises(ConfigError) as caught:
        disk.read(str(path))
    assert "\n" not in caught.value.message and caught.value.message[-1] != "."
    return caught.value


def refused(path, *parts):
    """The message has all these parts; the rest of the error."""
    error = complaint(path)
    for part in parts:
        assert part in error.message
    return error
