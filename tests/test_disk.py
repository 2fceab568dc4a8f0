"""What each format of datasets on disk is read as, on files that the tests write."""

import gzip

import numpy as np
import pytest
from disk_sets import (
    cifar,
    idx,
    labels,
    pixels,
    table,
    write_cifar10,
    write_idx,
    write_images,
    write_mnist,
)
from PIL import Image

from lopt import disk


def check(source, x, y, *, image=None, num_test=0):
    np.testing.assert_array_equal(source.x, np.asarray(x).reshape(len(x), -1))
    np.testing.assert_array_equal(source.y, y)
    assert (source.image, source.num_test) == (image, num_test)


@pytest.mark.parametrize("packed", [False, True])
def test_mnist(tmp_path, packed):
    (x, y), (u, v) = write_mnist(tmp_path, packed=packed)
    (tmp_path / "readme.txt").touch()
    source = disk.read(str(tmp_path))
    x, y = np.concatenate([x, u]), np.concatenate([y, v])
    check(source, x, y, image=(5, 4, 1), num_test=6)


def test_one_pair_of_files_is_a_set_without_a_test_split(tmp_path):
    (x, y), _ = write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    check(disk.read(str(path)), x, y, image=(5, 4, 1))
    write_idx(tmp_path / "one", x, y, prefix="emnist-digits-test-", dot=".")
    check(disk.read(str(tmp_path / "one")), x, y, image=(5, 4, 1))


def test_files_that_were_unpacked_and_kept_their_names(tmp_path):
    x, y = pixels(30, 5, 4), labels(30)
    path = write_idx(tmp_path, x, y, packed=True)
    path.write_bytes(gzip.decompress(path.read_bytes()))
    check(disk.read(str(tmp_path)), x, y, image=(5, 4, 1))


def test_of_a_file_and_its_packed_form_the_plain_one_is_read(tmp_path):
    x, y = pixels(30, 5, 4), labels(30)
    write_idx(tmp_path, pixels(30, 5, 4, seed=1), y[::-1], packed=True)
    write_idx(tmp_path, x, y)
    check(disk.read(str(tmp_path)), x, y, image=(5, 4, 1))


def test_labels_from_one_become_classes_from_zero(tmp_path):
    """The letters of EMNIST."""
    x, y = pixels(30, 5, 4), labels(30)
    write_idx(tmp_path, x, y + 1)
    write_idx(tmp_path, x[:4], y[:4] + 1, prefix="t10k-")
    check(
        disk.read(str(tmp_path)), [*x, *x[:4]], [*y, *y[:4]], image=(5, 4, 1), num_test=4
    )


def test_cifar10(tmp_path):
    x, y = write_cifar10(tmp_path)
    check(disk.read(str(tmp_path)), x, y, image=(32, 32, 3), num_test=4)


def test_cifar100_is_read_with_its_fine_labels(tmp_path):
    x, y = pixels(110, 32, 32, 3), labels(110, 100)
    for name, part in (("train.bin", slice(100)), ("test.bin", slice(100, None))):
        (tmp_path / name).write_bytes(cifar(x[part], y[part] // 5, y[part]))
    check(disk.read(str(tmp_path)), x, y, image=(32, 32, 3), num_test=10)


def test_a_record_of_cifar_is_a_label_and_planes_of_color():
    """As its documentation says; what the other tests write must be that, too."""
    x = pixels(2, 32, 32, 3)
    content = cifar(x, [7, 8])
    assert len(content) == 2 * 3073 and content[3073] == 8
    assert content[3073 + 1 + 1024 + 32 * 5 + 6] == x[1, 5, 6, 1]


def test_images(tmp_path):
    x, y = write_images(tmp_path)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    check(disk.read(str(tmp_path)), x, y, image=(4, 5, 3))


def test_images_with_a_test_split(tmp_path):
    x, y = write_images(tmp_path / "train", mode="L")
    u, v = write_images(
        tmp_path / "test", mode="L", num=2, classes=("cat", "dog"), seed=9
    )
    check(disk.read(str(tmp_path)), [*x, *u], [*y, *v], image=(4, 5, 1), num_test=4)


def test_classes_may_be_called_train_and_test(tmp_path):
    x, y = write_images(tmp_path, classes=("test", "train"), num=10)
    check(disk.read(str(tmp_path)), x, y, image=(4, 5, 3))


def test_one_image_in_color_makes_all_of_them_so(tmp_path):
    x, y = write_images(tmp_path, mode="L")
    image = Image.fromarray(pixels(1, 4, 5, 3)[0])
    image.save(tmp_path / "dog" / "2.png")
    x = np.repeat(x, 3, axis=1)
    x[7 + 2] = pixels(1, 4, 5, 3)[0].reshape(-1)
    check(disk.read(str(tmp_path)), x, y, image=(4, 5, 3))


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("bmp", {}), ("gif", {}), ("ppm", {}), ("webp", {"lossless": True})],
)
def test_images_of_other_formats(tmp_path, suffix, options):
    x, y = write_images(tmp_path)
    for path in sorted(tmp_path.glob("*/*.png")):
        image = Image.open(path).quantize(20) if suffix == "gif" else Image.open(path)
        image.save(path.with_suffix(f".{suffix.upper()}"), **options)
        path.unlink()
    check(disk.read(str(tmp_path)), x, y, image=(4, 5, 3))


@pytest.mark.parametrize(
    ("shape", "image"), [((5, 4), (5, 4, 1)), ((5, 4, 2), (5, 4, 2))]
)
def test_npz_of_images(tmp_path, shape, image):
    x, y = pixels(30, *shape), labels(30)
    np.savez_compressed(tmp_path / "set.npz", x=x, y=y)
    check(disk.read(str(tmp_path / "set.npz")), x, y, image=image)


@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2", "<i2", ">u4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_of_tables_in_all_layouts(tmp_path, kind, order):
    x, y = table()
    x = np.asarray(np.abs(x), kind, order=order)
    np.savez(tmp_path / "set.npz", x=x, y=y.astype(">i4"))
    source = disk.read(str(tmp_path / "set.npz"))
    check(source, x, y)


def test_npz_of_targets_with_a_test_split_and_more(tmp_path):
    x, _ = table()
    y = np.random.RandomState(1).randn(40, 2)
    objects = np.array([{}, []], dtype=object)
    arrays = {"x": x[:30], "y": y[:30], "x_test": x[30:], "y_test": y[30:]}
    np.savez(tmp_path / "set.npz", names=objects, **arrays)
    check(disk.read(str(tmp_path / "set.npz")), x, y, num_test=10)
    one = {name: array[:, 0] if "y" in name else array for name, array in arrays.items()}
    one |= {"x_test": x[30:31], "y_test": y[30:31, 0]}  # a guess at one is no guess
    np.savez(tmp_path / "one.npz", **one)
    check(disk.read(str(tmp_path / "one.npz")), x[:31], y[:31, :1], num_test=1)


def test_npz_of_labels_of_several_types(tmp_path):
    x, y = table()
    parts = {"x": x, "y": y.astype(np.uint64), "x_test": x, "y_test": y.astype(np.int64)}
    np.savez(tmp_path / "set.npz", **parts)
    source = disk.read(str(tmp_path / "set.npz"))
    check(source, [*x, *x], [*y, *y], num_test=40)
    assert source.y.dtype == np.int64


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (x, y), _ = write_mnist(tmp_path / "mnist")
    source = disk.read("~/mnist/train-images-idx3-ubyte")
    check(source, x, y, image=(5, 4, 1))


def test_an_idx_file_is_as_documented():
    assert idx([[[1, 2, 3]]]) == bytes.fromhex(
        "00000803 00000001 00000001 00000003 010203"
    )
