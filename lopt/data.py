"""Datasets as device arrays in four splits, and pure minibatch sampling.

Every dataset comes with scikit-learn, so nothing is downloaded. It is split once, by a
rule that does not change, into train, meta, valid and test (55, 15, 15 and 15 %); inputs
are centered and scaled to unit RMS with statistics of the train split alone. (The rule
changed once, on 2026-11-21: a prior of `layerwise` had been chosen on the first draw's
test split, and what is reported must not be what something was chosen on.)

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
from functools import cache, lru_cache

import jax.numpy as jnp
import numpy as np

from lopt import prng
from lopt.base import SPLITS, Array, PRNGKey, Split
from lopt.config import BrokenRule
from lopt.errors import unknown_name

Examples = tuple[Array, Array]
"""Inputs [N, D] float32, and labels [N] int32 or targets [N, K] float32."""

FRACTIONS = (0.55, 0.15, 0.15, 0.15)
MAX_SIZES = (2000, 400, 400, 400)
"""A split is capped, so that evaluating on the whole of it stays cheap."""

_PATCH = 8  # pixels, the side of a patch
_BLOCK = 2  # columns of patches that stay together in one split


@dataclass(frozen=True)
class _Raw:
    """A dataset before it is split."""

    x: np.ndarray  # [N, D]
    y: np.ndarray  # [N], classes 0, 1, ..., or [N, K], targets
    group: np.ndarray  # [N], examples of one group stay in one split
    image: tuple[int, int, int] | None  # [height, width, colors]; None: a table


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
    seed: int = 0,
) -> dict[Split, Examples]:
    """The four splits of a dataset, each of examples.

    Args:
      name: a key of `DATASETS`.
      num_examples: of the train split, drawn from it; None: all. A smaller number's
        examples are among a larger one's.
      label_noise: fraction of the train split's labels that are replaced, each by one of
        the other classes; the other splits stay clean. Not of targets.
      input_scale: s in s (x + input_offset), the inputs of every split.
      input_offset: what is added to every input, in units of their RMS.
      seed: of what is drawn, and of which examples are in the train, the meta and the
        valid split: what is learned from one draw is the draw's, for the splits are
        small. The test split is the same for all.

    Raises:
      ConfigError: no dataset has this name.
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    return dict(_varied(name, num_examples, label_noise, input_scale, input_offset, seed))


@lru_cache
def _varied(
    name: str,
    num_examples: int | None,
    label_noise: float,
    input_scale: float,
    input_offset: float,
    seed: int,
) -> dict[Split, Examples]:
    splits = dict(_dataset(name, seed))
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
def _dataset(name: str, seed: int) -> dict[Split, Examples]:
    raw = DATASETS[name]()
    indices = split_indices(raw.group, seed)
    # A pixel that is almost always blank would explode if it had a scale of its own.
    x = _standardized(raw.x, indices[0], axis=None if raw.image else 0)
    has_classes = np.issubdtype(raw.y.dtype, np.integer)
    y = raw.y if has_classes else _standardized(raw.y, indices[0], axis=0)
    kind = jnp.int32 if has_classes else jnp.float32
    return {
        split: (jnp.asarray(x[i], jnp.float32), jnp.asarray(y[i], kind))
        for split, i in zip(SPLITS, indices, strict=True)
    }


def _standardized(values: np.ndarray, train: np.ndarray, *, axis: int | None):
    """Columns, centered and brought to unit RMS, each or all, by the rows in `train`."""
    mean = values[train].mean(axis=0)
    scale = np.sqrt(((values[train] - mean) ** 2).mean(axis=axis))
    return (values - mean) / scale


@cache
def image_shape(name: str) -> tuple[int, int, int]:
    """Height, width and colors of a dataset's images.

    Raises:
      ConfigError: no dataset has this name, or it is not one of images.
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    image = DATASETS[name]().image
    if image is None:
        raise BrokenRule("dataset", "be one of images", name)
    return image


def split_indices(group: np.ndarray, seed: int) -> list[np.ndarray]:
    """Indices of the examples of each split; groups are shuffled, and stay whole.

    The seed decides on all splits but the last.
    """
    # RandomState, because numpy promises that its stream will never change. Seed 0 was
    # the first draw.
    random = np.random.RandomState(1)
    groups = random.permutation(np.unique(group))
    ends = np.rint(np.cumsum(FRACTIONS) * len(groups)).astype(int)
    if seed:
        others = np.random.RandomState(seed).permutation(groups[: ends[-2]])
        groups = np.concatenate([others, groups[ends[-2] :]])
    indices = []
    for part, size in zip(np.split(groups, ends[:-1]), MAX_SIZES, strict=True):
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
