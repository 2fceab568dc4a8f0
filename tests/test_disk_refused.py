"""What is wrong with a dataset on disk is one line: the file, the rule, the value."""

import gzip
import shutil
import struct
import sys
import tracemalloc

import numpy as np
import pytest
from disk_sets import (
    complaint,
    idx,
    labels,
    pixels,
    refused,
    write_cifar10,
    write_idx,
    write_images,
    write_mnist,
)
from PIL import Image

X, Y = pixels(30, 5, 4), labels(30)
HEADER = bytes.fromhex("00000803 0000001e 00000005 00000004")


def test_a_missing_dataset_says_where_it_looked_and_what_to_put_there(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    error = complaint("data/mnist")
    assert error.message == f"no dataset is at `{tmp_path}/data/mnist`"
    assert "downloads no dataset" in error.hint and "idx3" in error.hint


def test_folders_and_files_without_a_dataset(tmp_path):
    assert "put there" in refused(tmp_path, "is empty").hint
    (tmp_path / "notes.txt").write_text("nothing")
    refused(tmp_path, f"`{tmp_path}` is in no format that lopt reads")
    refused(tmp_path / "notes.txt", "notes.txt` is in no format that lopt reads")
    (tmp_path / "data_batch_1").touch()
    assert "binary version" in refused(tmp_path, "pickles").hint


def test_what_the_system_does_not_let_us_read(tmp_path, monkeypatch):
    write_idx(tmp_path, X, Y)
    path = tmp_path / "train-labels-idx1-ubyte"
    path.unlink()
    path.mkdir()
    refused(tmp_path, f"cannot read `{path}`: is a directory")
    (tmp_path / "x.npz").mkdir()
    refused(tmp_path / "x.npz", "x.npz` is empty")

    def iterdir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", iterdir)
    refused(tmp_path, f"cannot read `{tmp_path}`: permission denied")


@pytest.mark.parametrize("packed", [False, True])
def test_idx_cut_anywhere(tmp_path, packed):
    path = write_idx(tmp_path, X, Y, packed=packed)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert str(path) in complaint(path).message, length
        if packed or length >= 16:
            continue
        rule = f"must have a header of 16 bytes, got {length}"
        assert complaint(path).message == f"`{path}` {rule}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\x08\x01" + HEADER[4:] + X.tobytes(), "0x00000803, got 0x00000801"),
        (b"\0\0\x0d\x03" + HEADER[4:] + X.tobytes(), "0x00000803, got 0x00000d03"),
        (b"PK\x03\x04" + HEADER[4:] + X.tobytes(), "0x00000803, got 0x504b0304"),
        (HEADER + X.tobytes()[:-1], "must have 600 bytes after its header, got 599"),
        (HEADER + X.tobytes() + b"\0", "must have 600 bytes after its header, got more"),
        (idx(X[:29]), "must have a label for each of the 29 images of"),
        (idx(X[:0]), "must have a label for each of the 0 images"),
        (idx(X[:, :0]), "must have examples, got `x` uint8[30, 0, 4, 1]"),
        (idx(0 * X), "must have inputs that differ, got all alike"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_images(tmp_path, content, message, packed):
    path = write_idx(tmp_path, X, Y)
    path.write_bytes(gzip.compress(content) if packed else content)
    refused(path, str(tmp_path), message)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([*labels(29, 10), 255], "count the classes from 0 or from 1, got 255 but no 10"),
        ([*Y[:29], 4], "got 4 but no 3"),
        (Y + 2, "got 2 but no 1"),
        (0 * Y, "must have two classes or more, got 1"),
        (Y[:29], "must have a label for each of the 30 images"),
    ],
)
def test_idx_labels(tmp_path, y, message):
    path = write_idx(tmp_path, X, np.array(y))
    refused(path, f"{tmp_path}/train-labels-idx1-ubyte", message)


def test_sets_that_do_not_fit_together(tmp_path):
    images = write_idx(tmp_path, X, Y)
    test = write_idx(tmp_path, X[:, :4], Y, prefix="t10k-")
    refused(
        tmp_path, "t10k", "must have `x` like", "[30, 4, 4, 1] and uint8[30, 5, 4, 1]"
    )
    write_idx(tmp_path, X[:3], np.array([0, 1, 3]), prefix="t10k-")
    refused(tmp_path, "t10k-labels", "must have labels that", "has, too, got 3")
    write_idx(tmp_path, X, Y, prefix="letters-")
    error = refused(
        tmp_path, "must have one set, or `train` and `t10k`, got", images.name
    )
    assert "path of one" in error.hint
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    refused(test, "labels beside it, got no `t10k-labels-idx1-ubyte` and no `t10k")
    few = write_idx(tmp_path / "few", X[:19], Y[:19])
    refused(few, "must have at least 20 examples, got 19")


def peak_of(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_is_not_unpacked_beyond_what_its_header_states(tmp_path):
    path = write_idx(tmp_path, X, Y)
    path.write_bytes(gzip.compress(HEADER + bytes(2**26)))
    assert peak_of(lambda: refused(path, "after its header, got more")) < 2**22

    # An npz whose directory states a size that its stream exceeds by far.
    path, size = tmp_path / "set.npz", 128 + 2**26
    np.savez_compressed(path, x=np.zeros((2**21, 4)), y=np.zeros(2**21, int))
    path.write_bytes(
        path.read_bytes().replace(*(struct.pack("<I", n) for n in (size, 900)))
    )
    assert peak_of(lambda: refused(path, "set.npz` is not a whole npz file")) < 2**22


def test_an_idx_file_whose_header_states_more_than_it_has(tmp_path):
    path = write_idx(tmp_path, X, Y)
    content = HEADER[:4] + struct.pack(">3I", *[2**32 - 1] * 3)
    path.write_bytes(gzip.compress(content))
    refused(path, "numbers, got 4294967295 x 4294967295 x 4294967295")
    path.write_bytes(content)  # which would stay on disk
    refused(path, f"must have {16 + (2**32 - 1) ** 3} bytes, got 16")


def test_more_than_memory_should_hold_is_refused_before_room_is_made(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("lopt.disk.source.LARGEST", 599)
    path = write_idx(tmp_path / "idx", X, Y, packed=True)
    error = refused(path, "must have at most 599 numbers, got 30 x 5 x 4")
    assert "plain IDX files" in error.hint
    np.savez_compressed(tmp_path / "set.npz", x=X, y=Y)
    refused(tmp_path / "set.npz", "at most 599 numbers, got 30 x 5 x 4")
    write_cifar10(tmp_path / "cifar")
    refused(tmp_path / "cifar", "at most 599 numbers, got 6 x 12292")
    write_images(tmp_path / "images", num=15)
    refused(tmp_path / "images", "at most 599 numbers, got 45 x 4 x 5 x 3")


def test_cifar(tmp_path):
    write_cifar10(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:3073] + b"\xff" + whole[3074:])
    refused(tmp_path, f"`{path}` must have labels below 10, got 255 in example 1")
    path.write_bytes(whole[: 2 * 3073])
    refused(tmp_path, f"`{path}` must be as long as `data_batch_1.bin`", "got 6146")
    path.write_bytes(whole)
    for length in (0, 1, 3072, 3074, len(whole) - 1):
        (tmp_path / "test_batch.bin").write_bytes(whole[:length])
        refused(tmp_path, "test_batch.bin` must be a multiple of 3073 bytes", f"{length}")
    path.unlink()
    refused(
        tmp_path, "all files of the binary version of CIFAR, got no `data_batch_3.bin`"
    )


def test_cifar100(tmp_path):
    record = bytes(3072)
    (tmp_path / "test.bin").write_bytes(b"\0\0" + record)
    (tmp_path / "train.bin").write_bytes(b"\0\0" + record + b"\x14\0" + record)
    refused(tmp_path, "train.bin` must have labels below 20, got 20 in example 1")
    (tmp_path / "train.bin").write_bytes(b"\0\x64" + record)
    refused(tmp_path, "train.bin` must have labels below 100, got 100 in example 0")


def test_images(tmp_path):
    write_images(tmp_path)
    path = tmp_path / "dog" / "2.png"
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 20, len(whole) // 2, len(whole) - 20, len(whole) - 13):
        path.write_bytes(whole[:length])
        refused(tmp_path, f"`{path}` is no")
    place = whole.index(b"IDAT") + 9
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    refused(tmp_path, f"`{path}` is not a whole image file: ")
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n%%EndComments\n")
    refused(tmp_path, f"`{path}` is no image that lopt reads")
    Image.fromarray(pixels(1, 4, 6)[0]).save(path)
    refused(
        tmp_path, f"`{path}` must be of 4x5 pixels, as `{tmp_path}/cat/0.png` is, got 4x6"
    )
    Image.fromarray(pixels(1, 4, 5)[0].astype(np.uint16)).save(path)
    refused(tmp_path, f"`{path}` must have pixels of one byte a color, got mode I;16")
    path.unlink()
    path = path.with_suffix(".jpg")
    Image.fromarray(pixels(1, 4, 5)[0]).save(path)
    path.write_bytes(path.read_bytes()[:-30])
    refused(tmp_path, f"`{path}` is not a whole image file: ")
    path.unlink()
    path.mkdir()
    refused(tmp_path, f"cannot read `{path}`: is a directory")
    (tmp_path / "none").mkdir()
    refused(tmp_path, f"`{tmp_path}/none` must have images", ", got none")


def test_images_of_classes_that_are_not_trained(tmp_path):
    write_images(tmp_path / "train")
    refused(tmp_path, f"`{tmp_path}/train` must have images", "got none")
    write_images(tmp_path / "test", classes=("cat", "fox"))
    refused(tmp_path, "test` must have classes that the train split has", "got `fox`")


def test_images_without_pillow(tmp_path, monkeypatch):
    write_images(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    error = refused(tmp_path, "holds images, and Pillow cannot be imported")
    assert error.hint == "`pip install 'lopt[images]'`"


def test_mnist_in_a_folder_that_is_half_there(tmp_path):
    write_mnist(tmp_path / "whole", packed=True)
    for path in sorted((tmp_path / "whole").iterdir()):
        folder = tmp_path / path.name
        shutil.copytree(tmp_path / "whole", folder)
        (folder / path.name).write_bytes(path.read_bytes()[:-1])
        refused(folder, f"`{folder / path.name}` is not a whole gzip file")
