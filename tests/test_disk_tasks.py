"""Datasets on disk as tasks: their splits, the families, and paths in suites."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from disk_sets import labels, pixels, table, write_images, write_mnist

from lopt import data
from lopt.base import SPLITS
from lopt.config import is_data_path, load_suite
from lopt.errors import ConfigError
from lopt.families import FAMILIES
from lopt.suites import build_tasks


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def numbered(num, num_test=0):
    """Examples that can be told apart: [i, 1], the last ones a test split."""
    x, y = np.stack([np.arange(num), np.arange(num) % 7], axis=1), labels(num)
    cut = num - num_test
    own = {"x_test": x[cut:], "y_test": y[cut:]} if num_test else {}
    return {"x": x[:cut], "y": y[:cut], **own}


def members(splits, num, train):
    """Which of the numbered examples are in each split, by undoing the scaling."""
    mean, scale = train.mean(), train.std()
    numbers = [np.rint(np.asarray(splits[s][0])[:, 0] * scale + mean) for s in SPLITS]
    for ids, split in zip(numbers, SPLITS, strict=True):
        np.testing.assert_array_equal(labels(num)[ids.astype(int)], splits[split][1])
    return [set(ids.astype(int).tolist()) for ids in numbers]


def train_rows(num, num_test, seed):
    indices = data.split_indices(np.arange(num), seed, num_test=num_test)
    return indices[0]


@pytest.mark.parametrize("seed", [0, 5])
def test_the_test_split_is_drawn_from_the_sources_own_and_the_others_not(tmp_path, seed):
    path = save(tmp_path / "a.npz", **numbered(200, num_test=40))
    splits = data.dataset(path, seed=seed)
    train = train_rows(200, 40, seed).astype(float)
    train_set, meta, valid, test = members(splits, 200, train)
    # 55, 15 and 15 of 85 of 160
    assert [len(s) for s in (train_set, meta, valid, test)] == [104, 28, 28, 40]
    assert train_set | meta | valid == set(range(160)) and test == set(range(160, 200))


def test_a_seed_redraws_all_but_the_sources_test_split():
    sizes = (50, 20, 20, 20)
    first, other = (
        data.split_indices(np.arange(200), seed, num_test=40, sizes=sizes)
        for seed in (0, 5)
    )
    np.testing.assert_array_equal(first[3], other[3])
    assert all(set(a) != set(b) for a, b in zip(first[:3], other[:3], strict=True))
    assert [len(part) for part in first] == list(sizes)


def test_without_a_test_split_the_rule_is_that_of_all_datasets(tmp_path):
    path = save(tmp_path / "a.npz", **numbered(200))
    indices = data.split_indices(np.arange(200), 0)
    found = members(data.dataset(path), 200, indices[0].astype(float))
    assert found == [set(part.tolist()) for part in indices]
    assert [len(part) for part in found] == [110, 30, 30, 30]


def test_the_statistics_are_those_of_the_train_split(tmp_path):
    x, y = table(100)
    x[:, 1] = 3.0
    train, *_, test = data.split_indices(np.arange(100), 0)
    x[test, 1] = 5.0
    splits = data.dataset(save(tmp_path / "a.npz", x=x, y=y))
    columns = [0, 2, 3]
    mean, scale = x[train].mean(axis=0), x[train].std(axis=0)
    expected = ((x[test] - mean) / scale.clip(1e-9))[:, columns]
    np.testing.assert_allclose(splits["test"][0][:, columns], expected, rtol=1e-4)
    # A column that is constant in training says nothing, and is not divided by zero.
    assert not splits["train"][0][:, 1].any() and (splits["test"][0][:, 1] == 2).all()


def test_images_have_one_scale_and_tables_one_a_column(tmp_path):
    x = pixels(60, 3, 3) // np.arange(1, 10, dtype=np.uint8).reshape(3, 3)
    image = save(tmp_path / "image.npz", x=x, y=labels(60))
    flat = save(tmp_path / "flat.npz", x=x.reshape(60, 9), y=labels(60))
    spreads = [np.asarray(data.dataset(p)["train"][0]).std(axis=0) for p in (image, flat)]
    assert spreads[0][0] > 5 * spreads[0][8]
    np.testing.assert_allclose(spreads[1], 1, rtol=1e-4)


def test_small_integers_are_not_wrapped(tmp_path):
    x = np.array([[0, 255], [255, 0]] * 30, np.uint8)
    (x_train, _) = data.dataset(save(tmp_path / "a.npz", x=x, y=labels(60)))["train"]
    assert set(np.sign(x_train[:, 0] + x_train[:, 1]).tolist()) <= {0.0, -1.0, 1.0}
    assert (x_train[:, 0] * x_train[:, 1] < 0).all()


def test_statistics_of_half_precision_do_not_overflow(tmp_path):
    x = 1000 * table(60, width=1)[0].astype(np.float16)
    (x_train, _) = data.dataset(save(tmp_path / "a.npz", x=x, y=labels(60)))["train"]
    assert np.asarray(x_train).std() == pytest.approx(1, rel=1e-3)


def test_caps_are_as_stated_and_options_change_them(tmp_path, unchecked_types):
    path = save(tmp_path / "a.npz", **numbered(6000, num_test=1000))

    def sizes(**options):
        return [len(y) for _, y in data.dataset(path, **options).values()]

    assert sizes() == [2000, 400, 400, 400]
    assert sizes(num_examples=3000) == [3000, 400, 400, 400]
    assert sizes(num_examples=300, eval_examples=700) == [300, 700, 700, 700]
    assert sizes(eval_examples=5000) == [2000, 883, 882, 1000]
    assert data.train_size(path) == 3235  # 55 of 85 of 5000
    task = FAMILIES["mlp"](dataset=path, num_examples=3235, eval_examples=50)
    assert task.name == "mlp-a-2x32-relu-3235-examples-eval-50"
    with pytest.raises(ConfigError, match="an integer from 1 to 3235, got 3236"):
        FAMILIES["mlp"](dataset=path, num_examples=3236)
    for wrong in (0, 2.0, True):
        with pytest.raises(ConfigError, match="`eval_examples` must be an integer"):
            FAMILIES["mlp"](dataset=path, eval_examples=wrong)


def test_fewer_examples_are_among_more_beyond_the_cap(tmp_path):
    path = save(tmp_path / "a.npz", **numbered(6000))
    rows = []
    for num in (50, 2000, 2500):
        indices = data.split_indices(
            np.arange(6000), 0, sizes=(max(num, 2000), 400, 400, 400)
        )
        train = indices[0].astype(float)
        splits = data.dataset(path, num_examples=num)
        rows.append(members(splits, 6000, train)[0])
    assert [len(found) for found in rows] == [50, 2000, 2500]
    assert rows[0] < rows[1] < rows[2]


@pytest.mark.parametrize("family", ["mlp", "convnet", "autoencoder"])
def test_families_of_images_take_a_path(tmp_path, family, key):
    write_mnist(tmp_path / "my.mnist", packed=True)
    task = FAMILIES[family](dataset=str(tmp_path / "my.mnist"), batch_size=4)
    assert "-my-" in task.name and "/" not in task.name
    params, state = jax.eval_shape(task.init, key, task.data)
    batch = jax.eval_shape(lambda data: task.batch(key, data, "train"), task.data)
    assert batch[0].shape == (4, 20)
    loss, _ = jax.eval_shape(task.loss, params, state, batch, key)
    assert loss.shape == ()


def test_two_sets_of_one_shape_share_functions(tmp_path):
    paths = [save(tmp_path / f"{n}.npz", **numbered(n)) for n in (60, 80)]
    one, other = (FAMILIES["mlp"](dataset=path) for path in paths)
    assert one.loss is other.loss and one.init is other.init


def test_what_a_set_is_not_for_is_said(tmp_path):
    x, y = table()
    classes, targets = (
        save(tmp_path / "c.npz", x=x, y=y),
        save(tmp_path / "t.npz", x=x, y=x),
    )
    for family, path, rule in [
        ("convnet", classes, "be one of images"),
        ("regression", classes, "have targets"),
        ("mlp", targets, "have classes"),
        ("convnet", targets, "have classes"),
    ]:
        with pytest.raises(ConfigError, match=f"`dataset` must {rule}, got"):
            FAMILIES[family](dataset=path)
    task = FAMILIES["regression"](dataset=targets)
    np.testing.assert_allclose(jnp.std(task.data["train"][1], axis=0), 1, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digits", False), ("breast_cancer", False), ("./mnist", True), ("a.npz", True),
        ("/data/mnist", True), ("~/mnist", True), ("train-images-idx3-ubyte.gz", True),
    ],
)  # fmt: skip
def test_a_path_has_a_slash_or_a_suffix(name, expected):
    assert is_data_path(name) == expected


def test_a_name_that_is_neither_is_told_how_a_path_looks():
    with pytest.raises(ConfigError, match="unknown dataset `fashion`") as error:
        data.dataset("fashion")
    assert "the path of a dataset has a `/` or a suffix" in error.value.hint


@pytest.mark.parametrize("family", ["mlp", "convnet", "regression", "autoencoder"])
def test_a_dataset_that_is_no_text(family, unchecked_types):
    for wrong in (5, ["digits"], True):
        with pytest.raises(ConfigError, match="`dataset` must be a name or a path, got"):
            FAMILIES[family](dataset=wrong)


SUITE = """
outer_steps = 2
[[tasks]]
family = "mlp"
dataset = "sets/a.npz"
[[tasks]]
family = "mlp"
dataset = "digits"
[[tasks]]
file = "own.py"
dataset = "someone/some-set"
[[tasks]]
family = "own.py:task"
dataset = "someone/some-set"
"""


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "sets").mkdir()
    save(tmp_path / "sets" / "a.npz", **numbered(60))
    (tmp_path / "own.py").write_text("def task(dataset): pass")
    (tmp_path / "digits").mkdir()
    path = tmp_path / "suite.toml"
    path.write_text(SUITE)
    return path


def datasets(suite, *overrides):
    return [task.options["dataset"] for task in load_suite(suite, overrides).tasks]


def test_a_path_is_relative_to_the_suite_and_a_file_of_ones_own_reads_its_own(
    suite, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path / "sets")
    own = "someone/some-set"
    assert datasets(suite) == [str(tmp_path / "sets" / "a.npz"), "digits", own, own]
    changed = datasets(suite, "tasks.0.dataset=./b.npz", "tasks.1.dataset=~/b.npz")
    home = tmp_path.home()
    assert changed[:2] == [str(tmp_path / "sets" / "b.npz"), str(home / "b.npz")]


def test_a_selection_suite_has_paths_of_its_own(suite, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "outer.toml").write_text('[[tasks]]\nfamily = "mlp"\n')
    chosen = f"selection.suite={suite}"
    (first, *_) = load_suite(tmp_path / "outer.toml", [chosen]).selection.tasks
    assert first.options["dataset"] == str(tmp_path / "sets" / "a.npz")


def test_a_suite_of_data_needs_no_trust_and_a_fault_names_the_task(tmp_path):
    write_images(tmp_path / "pets", num=20)
    path = tmp_path / "suite.toml"
    text = (
        '[[tasks]]\nfamily = "mlp"\n[[tasks]]\nfamily = "convnet"\ndataset = "./pets"\n'
    )
    path.write_text(text)
    _, built = build_tasks(load_suite(path))
    assert built.task.name == "convnet-pets-2x16-relu"
    path.write_text(text.replace("./pets", "./cats"))
    with pytest.raises(ConfigError) as error:
        build_tasks(load_suite(path))
    assert error.value.message == f"`tasks.1`: no dataset is at `{tmp_path}/cats`"
