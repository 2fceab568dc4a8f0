"""What Hugging Face's `datasets` has saved, written by the package itself."""

import io
import json
import sys

import numpy as np
import pytest
from disk_sets import complaint, labels, pixels, refused, table
from PIL import Image

from lopt import corpus, disk
from lopt.data import dataset
from lopt.errors import ConfigError

try:
    import datasets
except ImportError:
    datasets = None
else:
    datasets.disable_progress_bars()

real = pytest.mark.skipif(datasets is None, reason="`datasets` is not installed")


def saved(folder, **columns):
    """A folder of one set."""
    features = columns.pop("features", None)
    rows = datasets.Dataset.from_dict(columns, features=features)
    rows.save_to_disk(str(folder))
    return folder


def saved_splits(folder, **splits):
    """A folder of several sets."""
    sets = {name: datasets.Dataset.from_dict(of) for name, of in splits.items()}
    datasets.DatasetDict(sets).save_to_disk(str(folder))
    return folder


def images(x, classes=("cat", "dog", "eel")):
    """Columns of pixels [N, H, W] or [N, H, W, C] and of classes in turn."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=[*classes])}
    return {
        "image": [Image.fromarray(pixels) for pixels in x],
        "label": [int(label) for label in labels(len(x), len(classes))],
        "features": datasets.Features(features),
    }


@real
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_images_and_classes(tmp_path, shape):
    x = pixels(30, *shape)
    raw = disk.read(str(saved(tmp_path / "set", **images(x))))
    np.testing.assert_array_equal(raw.x, x.reshape(30, -1))
    np.testing.assert_array_equal(raw.y, labels(30))
    assert raw.image == (4, 5, 1 if len(shape) == 2 else 3)
    assert raw.num_test == 0


@real
def test_a_palette_is_looked_up(tmp_path):
    """An image's bytes are decoded as of a folder of images, not as they lie."""
    x = pixels(30, 4, 5, 3) // 128 * 255
    columns = images(x)
    for i, image in enumerate(columns["image"]):
        content = io.BytesIO()
        image.quantize(8).save(content, "PNG")
        columns["image"][i] = {"bytes": content.getvalue(), "path": None}
    raw = disk.read(str(saved(tmp_path / "set", **columns)))
    np.testing.assert_array_equal(raw.x, x.reshape(30, -1))


@real
def test_tables_of_classes_and_of_targets(tmp_path):
    x, y = table()
    raw = disk.read(str(saved(tmp_path / "classes", x=x.tolist(), y=y.tolist())))
    np.testing.assert_allclose(raw.x, x, rtol=1e-6)
    np.testing.assert_array_equal(raw.y, y)
    targets = x[:, :2].tolist()
    raw = disk.read(str(saved(tmp_path / "targets", x=x.tolist(), y=targets, z=targets)))
    np.testing.assert_allclose(raw.y, x[:, :2], rtol=1e-6)
    assert raw.image is None


@real
def test_images_as_numbers(tmp_path):
    x = pixels(30, 4, 5)
    features = {"x": datasets.Array2D((4, 5), "uint8"), "y": datasets.Value("int8")}
    folder = saved(
        tmp_path / "set",
        x=list(x),
        y=labels(30).tolist(),
        features=datasets.Features(features),
    )
    raw = disk.read(str(folder))
    np.testing.assert_array_equal(raw.x, x.reshape(30, -1))
    assert raw.image == (4, 5, 1)


@real
def test_the_split_test_is_the_test_split_and_others_are_not_read(tmp_path):
    x, y = table(46)
    parts = {"train": slice(0, 40), "test": slice(40, 43), "validation": slice(43, 46)}
    splits = {k: {"x": x[p].tolist(), "y": y[p].tolist()} for k, p in parts.items()}
    folder = saved_splits(tmp_path / "set", **splits)
    raw = disk.read(str(folder))
    assert (len(raw.y), raw.num_test) == (43, 3)
    np.testing.assert_allclose(raw.x, x[:43], rtol=1e-6)
    assert len(dataset(str(folder))["test"][1]) == 3


@real
def test_a_text_is_its_rows_in_lines(tmp_path):
    lines = [f"line {i} of många" for i in range(3000)]
    folder = saved(tmp_path / "set", text=lines, label=[0] * 3000)
    assert disk.read_text(str(folder)) == ["\n".join(lines).encode()]
    part = {"train": {"text": lines}, "test": {"text": ["e" * 3000]}}
    splits = corpus.corpus(str(saved_splits(tmp_path / "two", **part)))
    e = 1 + ord("e") - ord(" ")
    assert splits["test"].shape == (2, 1024) and set(np.ravel(splits["test"])) == {e}
    others = sum(len(splits[s]) for s in ("train", "meta", "valid"))
    assert others == len("\n".join(lines).encode()) // 1024


@real
def test_what_is_wrong_with_columns(tmp_path):
    x, y = table()
    x, y = x.tolist(), y.tolist()

    def folder(name, **columns):
        return saved(tmp_path / name, **columns)

    error = refused(folder("a", x=x, label=y), "must have a column `y`, got x, label")
    assert "`image` and `label`" in error.hint
    refused(folder("b", x=[*x[:-1], [1.0]], y=y), "`x` of `", "must be numbers of shape")
    refused(folder("c", x=x, y=["a"] * 40), "`y` of `", "must be integers of shape [N]")
    refused(folder("d", x=x, y=[None, *y[1:]]), "in `y` finite numbers", "got nan")
    refused(folder("e", image=x, label=y), "must have `Image`s in `image`, got `List`")
    refused(folder("f", x=[], y=[]), "f` is not a whole dataset file")
    refused(saved_splits(tmp_path / "g", all={"x": x}), "a split `train`, got all")
    for name, columns, message in [
        ("h", {"x": x}, "must have a column `text`, got x"),
        ("i", {"text": ["a", None]}, "must have strings in `text`, got other values"),
    ]:
        with pytest.raises(ConfigError, match=message):
            disk.read_text(str(folder(name, **columns)))


@real
def test_what_is_wrong_with_images(tmp_path):
    columns = images(pixels(30, 4, 5, 3))
    columns["image"][7] = Image.fromarray(pixels(1, 5, 5, 3)[0])
    refused(saved(tmp_path / "a", **columns), "a:7` must be of 4x5 pixels", "got 5x5")
    columns["image"][7] = None
    refused(saved(tmp_path / "b", **columns), "images inside, got none in row 7")
    content = io.BytesIO()
    Image.fromarray(pixels(1, 4, 5, 3)[0]).save(content, "PNG")
    for name, cut in (("c", content.getvalue()[:-30]), ("d", b"no image")):
        columns["image"][7] = {"bytes": cut, "path": None}
        refused(saved(tmp_path / name, **columns), f"{name}:7` is no")


@real
def test_an_image_elsewhere_is_not_followed(tmp_path, monkeypatch):
    """Not to another file, and not to the net."""
    cells = [{"bytes": None, "path": "https://example.com/a.png"}] * 30
    cell = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    folder = saved(
        tmp_path / "set",
        image=cells,
        label=labels(30).tolist(),
        features=datasets.Features({"image": cell, "label": datasets.Value("int64")}),
    )
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    info["features"]["image"] = {"_type": "Image"}
    path.write_text(json.dumps(info))

    def decode_example(*args, **kwargs):
        raise AssertionError("would follow the path")

    monkeypatch.setattr(datasets.Image, "decode_example", decode_example)
    refused(folder, "set` must have images inside, got none in row 0")


@real
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_damaged_files(tmp_path, share):
    x, y = table()
    folder = saved(tmp_path / "set", x=x.tolist(), y=y.tolist())
    (path,) = folder.glob("*.arrow")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert str(folder) in refused(folder, "is not a whole dataset file: ").message
    path.unlink()
    refused(folder, f"cannot read `{folder}`: no such file")
    path.write_bytes(content)
    for state in ("{", "{}"):
        (folder / "state.json").write_text(state)
        refused(folder, "is not a whole dataset file: ")


@real
def test_bytes_that_are_no_text(tmp_path):
    folder = saved(tmp_path / "set", text=["words"] * 30, x=["words"] * 30, y=[0] * 30)
    (path,) = folder.glob("*.arrow")
    path.write_bytes(path.read_bytes().replace(b"words", b"wor\xff\xff"))
    with pytest.raises(ConfigError, match="is not a whole dataset file: 'utf-8' codec"):
        disk.read_text(str(folder))
    refused(folder, "is not a whole dataset file: ")


@real
def test_the_format_that_it_was_saved_in_is_no_matter(tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "other": [1, 2]})
    rows = rows.with_format("numpy", columns=["other"])
    rows.save_to_disk(str(tmp_path / "text"))
    assert disk.read_text(str(tmp_path / "text")) == [b"a\nb"]
    columns = images(pixels(30, 4, 5))
    features = columns.pop("features")
    rows = datasets.Dataset.from_dict(columns, features=features).with_format("numpy")
    rows.save_to_disk(str(tmp_path / "images"))
    assert disk.read(str(tmp_path / "images")).image == (4, 5, 1)


@real
def test_one_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    x, y = table()
    folder = saved(tmp_path / "set", x=x.tolist(), y=y.tolist(), text=["12345"] * 40)
    monkeypatch.setattr("lopt.disk.source.LARGEST", 159)
    refused(folder, "must have at most 159 numbers, got 40 x 4")
    with pytest.raises(ConfigError, match="at most 159 numbers, got 239"):
        disk.read_text(str(folder))


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    error = complaint(tmp_path)
    assert error.message.startswith(f"`{tmp_path}` was saved by Hugging Face's `datasets")
    assert error.hint == "`pip install 'lopt[datasets]'`"
