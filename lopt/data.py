"""Datasets as device arrays in four splits, and pure minibatch sampling.

A dataset comes with scikit-learn, or is the user's own, at a path (lopt.disk says in
which formats): nothing is downloaded. It is split once, by a rule that does not change,
into train, meta, valid and test (55, 15, 15 and 15 %), the test split out of the source's
own where it has one; inputs are centered and scaled to unit RMS with statistics of the
train split alone. (The rule changed once, on 2026-11-21: a prior of `layerwise` had been
chosen on the first draw's test split, and what is reported must not be what something was
chosen on.)

`patches` are the 8x8 patches, side by side, of scikit-learn's two sample photographs,
in color, averaged to 4x4. The class says which photograph and which third of it (top,
middle, bottom) a patch is from; the best runs of small networks tell it for 58 % of
unseen patches (benchmarks/digits-heldout.json). Neighbors look alike, so whole columns of
patches, two by two and in both photographs, go to one split.

`digits-permuted` are the digits with their pixels in another, fixed order: for a network
of dense layers the same task from other initial weights, for one that knows of neighbors
another. `digits-regrouped` asks whether a digit is odd and whether it is at least 5:
four classes, each of two or three shapes.

An image lies row by row, and in a pixel color by color: a row of inputs is an array of
shape `image_shape`. `diabetes` and `linnerud` are tables with targets instead of classes,
standardized one by one by the train split, too, so that a guess at the mean has a mean
squared error of about 1 there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from lopt import disk, prng
from lopt.base import SPLITS, Array, PRNGKey, Split
from lopt.config import BrokenRule, is_data_path
from lopt.errors import unknown_name

Examples = tuple[Array, Array]
"""Inputs [N, D] float32, and labels [N] int32 or targets [N, K] float32."""

FRACTIONS = (0.55, 0.15, 0.15, 0.15)
MAX_SIZES = (2000, 400, 400, 400)
"""A split is capped, so that evaluating on the whole of it stays cheap. What is given as
`num_examples` or `eval_examples` is a cap instead."""

_PATCH = 8  # pixels, the side of a patch
_BLOCK = 2  # columns of patches that stay together in one split


@dataclass(frozen=True)
class _Raw:
    """A dataset before it is split."""

    x: np.ndarray  # [N, D]
    y: np.ndarray  # [N], classes 0, 1, ..., or [N, K], targets
    group: np.ndarray  # [N], examples of one group stay in one split
    image: tuple[int, int, int] | None  # [height, width, colors]; None: a table
    num_test: int = 0  # the last so many are a test split of the dataset's own


def _table(load: Callable, *, image: tuple[int, int, int] | None = None) -> _Raw:
    x, y = load(return_X_y=True)
    return _Raw(x, y, np.arange(len(y)), image)


def _digits() -> _Raw:
    from sklearn.datasets import load_digits

    return _table(load_digits, image=(8, 8, 1))


def _digits_permuted() -> _Raw:
    raw = _digits()
    order = np.random.RandomState(1).permutation(raw.x.shape[1])
    return replace(raw, x=raw.x[:, order])


def _digits_regrouped() -> _Raw:
    raw = _digits()
    return replace(raw, y=2 * (raw.y >= 5) + raw.y % 2)


def _breast_cancer() -> _Raw:
    from sklearn.datasets import load_breast_cancer

    return _table(load_breast_cancer)


def _wine() -> _Raw:
    from sklearn.datasets import load_wine

    return _table(load_wine)


def _iris() -> _Raw:
    from sklearn.datasets import load_iris

    return _table(load_iris)


def _patches() -> _Raw:
    from sklearn.datasets import load_sample_images

    xs, ys, groups = [], [], []
    for photo, image in enumerate(load_sample_images().images):
        rows, columns = (size // _PATCH for size in image.shape[:2])
        image = image[: rows * _PATCH, : columns * _PATCH]
        tiles = image.reshape(rows, _PATCH // 2, 2, columns, _PATCH // 2, 2, 3)
        tiles = tiles.mean(axis=(2, 5)).swapaxes(1, 2)
        row, column = np.indices((rows, columns)).reshape(2, -1)
        xs.append(tiles.reshape(rows * columns, -1))
        ys.append(3 * photo + 3 * row // rows)
        groups.append(column // _BLOCK)
    side = _PATCH // 2
    return _Raw(*map(np.concatenate, (xs, ys, groups)), image=(side, side, 3))


def _diabetes() -> _Raw:
    from sklearn.datasets import load_diabetes

    raw = _table(load_diabetes)
    return replace(raw, y=raw.y[:, None])


def _linnerud() -> _Raw:
    from sklearn.datasets import load_linnerud

    return _table(load_linnerud)


DATASETS: dict[str, Callable[[], _Raw]] = {
    "digits": _digits,
    "digits-permuted": _digits_permuted,
    "digits-regrouped": _digits_regrouped,
    "patches": _patches,
    "breast_cancer": _breast_cancer,
    "wine": _wine,
    "iris": _iris,
    "diabetes": _diabetes,
    "linnerud": _linnerud,
}


def dataset(
    name: str,
    *,
    num_examples: int | None = None,
    label_noise: float = 0.0,
    input_scale: float = 1.0,
    input_offset: float = 0.0,
    eval_examples: int | None = None,
    seed: int = 0,
) -> dict[Split, Examples]:
    """The four splits of a dataset, each of examples.

    Args:
      name: a key of `DATASETS`, or a path, which has a `/` or a suffix.
      num_examples: of the train split, drawn from it; None: 2000, or all. A smaller
        number's examples are among a larger one's.
      label_noise: fraction of the train split's labels that are replaced, each by one of
        the other classes; the other splits stay clean. Not of targets.
      input_scale: s in s (x + input_offset), the inputs of every split.
      input_offset: what is added to every input, in units of their RMS.
      eval_examples: of each other split, at most; None: 400.
      seed: of what is drawn, and of which examples are in the train, the meta and the
        valid split: what is learned from one draw is the draw's, for the splits are
        small. The test split is the same for all.

    Raises:
      ConfigError: no dataset has this name, or what is at the path is none.
    """
    most, *others = MAX_SIZES
    sizes = (max(most, num_examples or 0), *(eval_examples or size for size in others))
    return dict(
        _varied(name, num_examples, label_noise, input_scale, input_offset, seed, sizes)
    )


@lru_cache
def _varied(
    name: str,
    num_examples: int | None,
    label_noise: float,
    input_scale: float,
    input_offset: float,
    seed: int,
    sizes: tuple[int, ...],
) -> dict[Split, Examples]:
    splits = dict(_dataset(name, seed, sizes))
    random = np.random.RandomState(seed)
    x, y = splits["train"]
    num_classes = 1 + int(y.max())
    order = random.permutation(len(y))
    if num_examples is not None:
        x, y = x[order[:num_examples]], y[order[:num_examples]]
    if label_noise:
        wrong = random.permutation(len(y))[: round(label_noise * len(y))]
        shifts = random.randint(1, num_classes, size=len(wrong))
        y = y.at[wrong].set((y[wrong] + shifts) % num_classes)
    splits["train"] = x, y
    if (input_scale, input_offset) != (1.0, 0.0):
        for split, (x, y) in splits.items():
            splits[split] = input_scale * (x + input_offset), y
    return splits


@lru_cache
def _dataset(name: str, seed: int, sizes: tuple[int, ...]) -> dict[Split, Examples]:
    raw = _raw(name)
    indices = split_indices(raw.group, seed, num_test=raw.num_test, sizes=sizes)
    # A pixel that is almost always blank would explode if it had a scale of its own.
    xs = _standardized(raw.x, indices, axis=None if raw.image else 0)
    has_classes = np.issubdtype(raw.y.dtype, np.integer)
    ys = [raw.y[i] for i in indices]
    ys = ys if has_classes else _standardized(raw.y, indices, axis=0)
    kind = jnp.int32 if has_classes else jnp.float32
    return {
        split: (jnp.asarray(x, jnp.float32), jnp.asarray(y, kind))
        for split, x, y in zip(SPLITS, xs, ys, strict=True)
    }


def _standardized(values: np.ndarray, indices: list[np.ndarray], *, axis: int | None):
    """The rows of each split, their columns centered and brought to unit RMS, each or
    all, by the rows of the first split; a column that is constant there keeps its scale.
    """
    train = values[indices[0]].astype(np.float64)
    mean = train.mean(axis=0)
    scale = np.sqrt(((train - mean) ** 2).mean(axis=axis))
    scale = np.where(np.ptp(train, axis=axis) == 0, 1.0, scale)
    return [(values[i] - mean) / scale for i in indices]


@lru_cache(maxsize=2)  # two, because a dataset from disk may be large
def _raw(name: str) -> _Raw:
    if name in DATASETS:
        return DATASETS[name]()
    if not is_data_path(name):
        known = ", ".join(f"`{known}`" for known in DATASETS)
        hint = f"known: {known}; the path of a dataset has a `/` or a suffix"
        raise unknown_name("dataset", name, DATASETS, hint=hint)
    source = disk.read(name)
    group = np.arange(len(source.y))
    return _Raw(source.x, source.y, group, source.image, source.num_test)


def train_size(name: str) -> int:
    """How many examples a dataset's train split may have.

    Raises:
      ConfigError: as `dataset`.
    """
    raw = _raw(name)
    sizes = (len(raw.y),) * len(SPLITS)
    return len(split_indices(raw.group, 0, num_test=raw.num_test, sizes=sizes)[0])


def image_shape(name: str) -> tuple[int, int, int]:
    """Height, width and colors of a dataset's images.

    Raises:
      ConfigError: as `dataset`, or the dataset is not one of images.
    """
    image = _raw(name).image
    if image is None:
        raise BrokenRule("dataset", "be one of images", name)
    return image


def short_name(name: str) -> str:
    """What a task's name tells of its dataset: of a path the last part, no suffixes."""
    return Path(name).name.split(".")[0] if is_data_path(name) else name


def split_indices(
    group: np.ndarray,
    seed: int,
    *,
    num_test: int = 0,
    sizes: tuple[int, ...] = MAX_SIZES,
) -> list[np.ndarray]:
    """Indices of the examples of each split; groups are shuffled, and stay whole.

    The seed decides on all splits but the last. The last `num_test` examples, if any,
    are what the test split is drawn from, and no other; the rest keep their proportions.
    """
    # RandomState, because numpy promises that its stream will never change. Seed 0 was
    # the first draw.
    random = np.random.RandomState(1)
    own_test = group[len(group) - num_test :]
    groups = random.permutation(np.unique(group[: len(group) - num_test]))
    shares = np.cumsum(FRACTIONS)
    if num_test:
        shares[:-1] /= shares[-2]
    ends = np.rint(shares * len(groups)).astype(int)
    groups = np.concatenate([groups, np.unique(own_test)])
    if seed:
        others = np.random.RandomState(seed).permutation(groups[: ends[-2]])
        groups = np.concatenate([others, groups[ends[-2] :]])
    indices = []
    for part, size in zip(np.split(groups, ends[:-1]), sizes, strict=True):
        members = np.flatnonzero(np.isin(group, part))
        indices.append(random.permutation(members)[:size])
    return indices


def sample_batch(key: PRNGKey, examples: Examples, batch_size: int) -> Examples:
    """A minibatch, drawn uniformly with replacement: `(x [B, D], y [B, ...])`."""
    x_NxD, y_N = examples
    # Bits modulo N: uniform to within N / 2³².
    index_B = prng.bits(key, batch_size) % jnp.uint32(y_N.shape[0])
    x_BxD = x_NxD.at[index_B].get(mode="promise_in_bounds")
    return x_BxD, y_N.at[index_B].get(mode="promise_in_bounds")
