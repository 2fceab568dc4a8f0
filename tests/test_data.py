"""Splits that do not leak, statistics of the train split alone, uniform minibatches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt import bundled, data
from lopt.base import SPLITS
from lopt.errors import ConfigError

NUM_CLASSES = {
    "digits": 10,
    "digits-permuted": 10,
    "digits-regrouped": 4,
    "patches": 6,
    "breast_cancer": 2,
    "wine": 3,
    "iris": 3,
}


NUM_TARGETS = {"diabetes": 1, "linnerud": 3}


@pytest.mark.parametrize("name", data.DATASETS)
def test_examples(name):
    splits = data.dataset(name)
    assert tuple(splits) == SPLITS
    for (x, y), most in zip(splits.values(), data.MAX_SIZES, strict=True):
        assert 0 < len(x) == len(y) <= most
        assert x.dtype == jnp.float32 and np.isfinite(x).all()
        if name in NUM_TARGETS:
            assert y.dtype == jnp.float32 and np.isfinite(y).all()
            assert y.shape[1:] == (NUM_TARGETS[name],)
        else:
            assert y.dtype == jnp.int32
            assert set(np.unique(y)) == set(range(NUM_CLASSES[name]))


@pytest.mark.parametrize("name", NUM_TARGETS)
def test_targets_are_standardized_by_the_train_split_alone(name):
    """And are what scikit-learn has, but for a shift and a scale of each column."""
    splits, raw = data.dataset(name), data.DATASETS[name]()
    y = np.asarray(splits["train"][1], np.float64)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose((y**2).mean(axis=0), 1, rtol=1e-5)
    indices = data.split_indices(raw.group, 0)
    mean, scale = raw.y[indices[0]].mean(axis=0), raw.y[indices[0]].std(axis=0)
    for split, i in zip(SPLITS, indices, strict=True):
        found = mean + scale * np.asarray(splits[split][1])
        np.testing.assert_allclose(found, raw.y[i], rtol=1e-5)


def test_fewer_examples_keep_their_targets():
    (x, y), (few_x, few_y) = (
        data.dataset("diabetes", num_examples=n)["train"] for n in (None, 40)
    )
    rows = {row.tobytes() for row in np.hstack([x, y])}
    few_rows = {row.tobytes() for row in np.hstack([few_x, few_y])}
    assert len(few_rows) == 40 and few_rows < rows


def test_images_lie_row_by_row_and_color_by_color():
    from sklearn.datasets import load_digits

    image = load_digits().images[7]
    np.testing.assert_array_equal(
        bundled._digits().x[7].reshape(data.image_shape("digits")), image[:, :, None]
    )
    assert data.image_shape("digits-permuted") == (8, 8, 1)
    # Colors of one pixel are more alike than those of two.
    pixels = bundled._patches().x.reshape(-1, *data.image_shape("patches"))
    across, aside = (np.abs(np.diff(pixels, axis=axis)).mean() for axis in (3, 2))
    assert pixels.shape[1:] == (4, 4, 3)
    assert across > 1.5 * aside


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wine", "`dataset` must be one of images, got 'wine'"),
        ("digit", "unknown dataset `digit`"),
    ],
)
def test_what_has_no_images(name, message):
    with pytest.raises(ConfigError) as error:
        data.image_shape(name)
    assert error.value.message == message


def test_sizes_are_the_stated_fractions():
    sizes = [len(y) for _, y in data.dataset("digits").values()]
    assert sizes == [988, 270, 269, 270]


@pytest.mark.parametrize("name", data.DATASETS)
def test_train_split_is_centered_with_unit_rms(name):
    x, _ = data.dataset(name)["train"]
    assert np.abs(x.mean(axis=0)).max() < 0.1  # patches: centered before they are capped
    assert np.sqrt((x**2).mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "iris", "diabetes"])
def test_columns_of_tables_have_scales_of_their_own(name):
    x, _ = data.dataset(name)["train"]
    np.testing.assert_allclose(np.sqrt((x**2).mean(axis=0)), 1, rtol=1e-4)


def test_other_splits_do_not_touch_the_statistics(monkeypatch):
    """Scaling test examples by 1000 must leave every other split as it was."""
    raw = data.DATASETS["digits"]()
    test = data.split_indices(raw.group, 0)[3]
    x = raw.x.copy()
    x[test] *= 1000
    poisoned = bundled.Raw(x, raw.y, raw.group, raw.image)
    monkeypatch.setitem(data.DATASETS, "poisoned", lambda: poisoned)
    clean, dirty = data.dataset("digits"), data.dataset("poisoned")
    for split in ("train", "meta", "valid"):
        np.testing.assert_array_equal(clean[split][0], dirty[split][0])
    assert np.abs(dirty["test"][0]).max() > 100 * np.abs(clean["test"][0]).max()


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("name", data.DATASETS)
def test_no_example_and_no_group_is_in_two_splits(name, seed):
    group = data.DATASETS[name]().group
    indices = data.split_indices(group, seed)
    everything = np.concatenate(indices)
    assert len(np.unique(everything)) == len(everything)
    for i, one in enumerate(indices):
        for other in indices[:i]:
            assert not set(group[one]) & set(group[other])


def test_a_seed_draws_all_splits_but_test():
    first, other = (data.split_indices(np.arange(1797), seed) for seed in (0, 3))
    np.testing.assert_array_equal(first[3], other[3])
    for a, b in zip(first[:3], other[:3], strict=True):
        assert len(a) == len(b) and set(a) != set(b)
    assert set(np.concatenate(first)) == set(np.concatenate(other))


def test_split_is_fixed_forever():
    """The first examples of each split, as they were when the rule was made."""
    indices = data.split_indices(np.arange(1797), 0)
    first = [
        [874, 161, 1338],
        [1298, 1228, 1768],
        [70, 1192, 225],
        [196, 1372, 1067],
    ]
    assert [list(i[:3]) for i in indices] == first


def test_patches_are_from_where_their_class_says():
    raw = bundled._patches()
    photo, third = raw.y // 3, raw.y % 3
    assert np.bincount(raw.y).min() > 1300
    for p in (0, 1):
        # Patches come row by row, so thirds come in order.
        assert (np.diff(third[photo == p]) >= 0).all()
    assert raw.x.shape == (2 * 53 * 80, 48)


def test_patches_average_two_by_two_pixels():
    from sklearn.datasets import load_sample_images

    image = load_sample_images().images[1].astype(float)
    tile = image[8:16, 24:32]  # second row of patches, fourth column
    expected = [
        tile[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c].mean()
        for i in range(4)
        for j in range(4)
        for c in range(3)
    ]
    patch = bundled._patches().x[53 * 80 + 80 + 3]
    np.testing.assert_allclose(patch, expected)


def test_permuted_digits_are_the_digits_with_other_places_of_pixels():
    plain, moved = (data.dataset(name) for name in ("digits", "digits-permuted"))
    for split in SPLITS:
        (x, y), (u, v) = plain[split], moved[split]
        np.testing.assert_array_equal(y, v)
        np.testing.assert_allclose(np.sort(x, axis=1), np.sort(u, axis=1), rtol=1e-5)
    order = [
        int(np.flatnonzero(np.isclose(x.T, u[:, i]).all(axis=1))[0]) for i in (20, 30)
    ]
    assert order != [20, 30]


def test_regrouped_digits_say_parity_and_size():
    (x, digit), (same, group) = (
        data.dataset(name)["test"] for name in ("digits", "digits-regrouped")
    )
    np.testing.assert_array_equal(x, same)
    of_digit = [
        set(np.asarray(group)[np.asarray(digit) == d].tolist()) for d in range(10)
    ]
    assert of_digit == [{0}, {1}, {0}, {1}, {0}, {3}, {2}, {3}, {2}, {3}]


def test_fewer_examples_are_among_more_and_other_splits_stay():
    whole = data.dataset("digits")
    small, large = (data.dataset("digits", num_examples=n) for n in (50, 300))
    rows = [{row.tobytes() for row in np.asarray(s["train"][0])} for s in (small, large)]
    assert len(small["train"][1]) == 50 and len(large["train"][1]) == 300
    assert rows[0] < rows[1] < {row.tobytes() for row in np.asarray(whole["train"][0])}
    other = data.dataset("digits", num_examples=50, seed=1)
    assert {row.tobytes() for row in np.asarray(other["train"][0])} != rows[0]
    for split in ("meta", "valid", "test"):
        assert small[split] is whole[split]


@pytest.mark.parametrize(("noise", "num_examples"), [(0.3, None), (0.5, 100)])
def test_noise_replaces_labels_of_the_train_split_alone(noise, num_examples):
    clean = data.dataset("digits", num_examples=num_examples)
    noisy = data.dataset("digits", num_examples=num_examples, label_noise=noise)
    y, other = (np.asarray(d["train"][1]) for d in (clean, noisy))
    assert (y != other).sum() == round(noise * len(y))
    assert set(other.tolist()) == set(range(10))
    np.testing.assert_array_equal(clean["train"][0], noisy["train"][0])
    # Each wrong label is any of the other nine: no shift is left out.
    assert set(((other - y) % 10)[y != other].tolist()) == set(range(1, 10))
    for split in ("meta", "valid", "test"):
        assert noisy[split] is clean[split]
    again = data.dataset("digits", num_examples=num_examples, label_noise=noise, seed=7)
    assert (np.asarray(again["train"][1]) != other).any()


def test_inputs_of_every_split_are_moved_and_scaled():
    plain = data.dataset("digits")
    moved = data.dataset("digits", input_scale=0.5, input_offset=2.0)
    for split in SPLITS:
        np.testing.assert_allclose(
            moved[split][0], 0.5 * (plain[split][0] + 2.0), rtol=1e-5, atol=1e-6
        )
        assert moved[split][1] is plain[split][1] or split == "train"


def test_datasets_are_cached_and_callers_cannot_change_them():
    first = data.dataset("wine")
    x = first["train"][0]
    first["train"] = None
    assert data.dataset("wine")["train"][0] is x


def test_unknown_dataset_is_met_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown dataset `digit`") as error:
        data.dataset("digit")
    assert error.value.hint == "did you mean `digits`?"


def test_batches_are_uniform_with_replacement(key):
    examples = (jnp.arange(10.0)[:, None], jnp.arange(10))
    x, y = data.sample_batch(key, examples, 10_000)
    np.testing.assert_array_equal(x[:, 0], y)
    counts = np.bincount(y, minlength=10)
    # Chi-squared with 9 degrees of freedom; 27.9 is exceeded once in a thousand seeds.
    assert ((counts - 1000) ** 2 / 1000).sum() < 27.9


def test_batches_depend_on_the_key_alone(key):
    examples = data.dataset("iris")["train"]
    keys = jax.random.split(key, 4)
    together = jax.vmap(lambda k: data.sample_batch(k, examples, 5))(keys)
    one_by_one = [data.sample_batch(k, examples, 5) for k in keys]
    for i, (x, y) in enumerate(one_by_one):
        np.testing.assert_array_equal(together[0][i], x)
        np.testing.assert_array_equal(together[1][i], y)
    assert len({tuple(np.asarray(x[:, 0])) for x, _ in one_by_one}) == 4


def test_classes_are_the_examples_of_these_relabelled_in_their_order():
    whole = data.dataset("digits", seed=3)
    some = data.dataset("digits", classes=(7, 2, 9), seed=3)
    others = data.dataset("digits", classes=(0, 1, 3, 4, 5, 6, 8), seed=3)
    for split in SPLITS:
        x, y = map(np.asarray, whole[split])
        for position, label in enumerate((7, 2, 9)):
            found_x, found_y = map(np.asarray, some[split])
            np.testing.assert_array_equal(
                rows(found_x[found_y == position]), rows(x[y == label])
            )
        assert len(some[split][1]) + len(others[split][1]) == len(y)


def rows(x):
    """In an order of their own."""
    return x[np.lexsort(x.T)]


def test_a_cap_is_of_the_examples_of_the_classes(monkeypatch):
    monkeypatch.setattr(data, "MAX_SIZES", (30, 10, 10, 10))
    some = data.dataset("digits", classes=(0, 1), seed=5)
    assert [len(y) for _, y in some.values()] == [30, 10, 10, 10]
    few = data.dataset("digits", classes=(0, 1), num_examples=20, eval_examples=5, seed=5)
    assert [len(y) for _, y in few.values()] == [20, 5, 5, 5]
    every = data.dataset("digits", classes=(0, 1), num_examples=500, seed=5)
    assert len(every["train"][1]) == data.train_size("digits", (0, 1), 5)


def test_wrong_labels_are_among_the_classes():
    clean, noisy = (
        np.asarray(
            data.dataset("digits", classes=(4, 5, 6), label_noise=noise)["train"][1]
        )
        for noise in (0.0, 0.5)
    )
    assert {*noisy} == {0, 1, 2}
    assert (noisy != clean).mean() == pytest.approx(0.5, abs=0.01)
