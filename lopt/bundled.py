"""The datasets that come with scikit-learn, whole.

`patches` are the 8x8 patches, side by side, of scikit-learn's two sample photographs,
in color, averaged to 4x4. The class says which photograph and which third of it (top,
middle, bottom) a patch is from; the best runs of small networks tell it for 58 % of
unseen patches (benchmarks/digits-heldout.json). Neighbors look alike, so whole columns of
patches, two by two and in both photographs, go to one split.

`digits-permuted` are the digits with their pixels in another, fixed order: for a network
of dense layers the same task from other initial weights, for one that knows of neighbors
another. `digits-regrouped` asks whether a digit is odd and whether it is at least 5:
four classes, each of two or three shapes.

`diabetes` and `linnerud` are tables with targets instead of classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_PATCH = 8  # pixels, the side of a patch
_BLOCK = 2  # columns of patches that stay together in one split


@dataclass(frozen=True)
class Raw:
    """A dataset before it is split."""

    x: Any  # [N, D], an array, or like one that only indices index: `lopt.disk`
    y: np.ndarray  # [N], classes 0, 1, ..., or [N, K], targets
    group: np.ndarray  # [N], examples of one group stay in one split
    image: tuple[int, int, int] | None  # [height, width, colors]; None: a table
    num_test: int = 0  # the last so many are a test split of the dataset's own


def _table(load: Callable, *, image: tuple[int, int, int] | None = None) -> Raw:
    x, y = load(return_X_y=True)
    return Raw(x, y, np.arange(len(y)), image)


def _digits() -> Raw:
    from sklearn.datasets import load_digits

    return _table(load_digits, image=(8, 8, 1))


def _digits_permuted() -> Raw:
    raw = _digits()
    order = np.random.RandomState(1).permutation(raw.x.shape[1])
    return replace(raw, x=raw.x[:, order])


def _digits_regrouped() -> Raw:
    raw = _digits()
    return replace(raw, y=2 * (raw.y >= 5) + raw.y % 2)


def _breast_cancer() -> Raw:
    from sklearn.datasets import load_breast_cancer

    return _table(load_breast_cancer)


def _wine() -> Raw:
    from sklearn.datasets import load_wine

    return _table(load_wine)


def _iris() -> Raw:
    from sklearn.datasets import load_iris

    return _table(load_iris)


def _patches() -> Raw:
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
    return Raw(*map(np.concatenate, (xs, ys, groups)), image=(side, side, 3))


def _diabetes() -> Raw:
    from sklearn.datasets import load_diabetes

    raw = _table(load_diabetes)
    return replace(raw, y=raw.y[:, None])


def _linnerud() -> Raw:
    from sklearn.datasets import load_linnerud

    return _table(load_linnerud)


DATASETS: dict[str, Callable[[], Raw]] = {
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
