"""Datasets as device arrays in four splits, and pure minibatch sampling.

A dataset comes with scikit-learn (lopt.bundled), or is the user's own, at a path
(lopt.disk): nothing is downloaded. It is split once, by a rule that does not change,
into train, meta, valid and test (55, 15, 15 and 15 %), the test split out of the source's
own where it has one; inputs are centered and scaled to unit RMS with statistics of the
train split alone. (The rule changed once, on 2026-11-21: a prior of `layerwise` had been
chosen on the first draw's test split, and what is reported must not be what something was
chosen on.)

An image lies row by row, and in a pixel color by color: a row of inputs is an array of
shape `image_shape`. Targets are standardized one by one by the train split, too, so that
a guess at the mean has a mean squared error of about 1 there.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lopt import disk, prng
from lopt.base import SPLITS, Array, Batch, Data, PRNGKey, Split
from lopt.bundled import DATASETS, Raw
from lopt.config import BrokenRule, is_data_path
from lopt.errors import unknown_name

Examples = tuple[Array, Array]
"""Inputs [N, D] float32, and labels [N] int32 or targets [N, K] float32."""

FRACTIONS = (0.55, 0.15, 0.15, 0.15)
MAX_SIZES = (2000, 400, 400, 400)
"""A split is capped, so that evaluating on the whole of it stays cheap. What is given as
`num_examples` or `eval_examples` is a cap instead."""


def dataset(
    name: str,
    *,
    num_examples: int | None = None,
    label_noise: float = 0.0,
    input_scale: float = 1.0,
    input_offset: float = 0.0,
    eval_examples: int | None = None,
    classes: tuple[int, ...] | None = None,
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
      classes: whose examples are kept, labelled 0, 1, … in this order; None: all.
        Which split an example is in, and what inputs are scaled by, is not changed.
      seed: of what is drawn, and of which examples are in the train, the meta and the
        valid split: what is learned from one draw is the draw's, for the splits are
        small. The test split is the same for all.

    Raises:
      ConfigError: no dataset has this name, or what is at the path is none.
    """
    most, *others = MAX_SIZES
    sizes = (max(most, num_examples or 0), *(eval_examples or size for size in others))
    return dict(
        _varied(
            name,
            num_examples,
            label_noise,
            input_scale,
            input_offset,
            classes,
            seed,
            sizes,
        )
    )


@lru_cache
def _varied(
    name: str,
    num_examples: int | None,
    label_noise: float,
    input_scale: float,
    input_offset: float,
    classes: tuple[int, ...] | None,
    seed: int,
    sizes: tuple[int, ...],
) -> dict[Split, Examples]:
    splits = dict(_dataset(name, classes, seed, sizes))
    random = np.random.RandomState(seed)
    x, y = splits["train"]
    num_classes = len(classes) if classes else 1 + int(y.max())
    order = random.permutation(len(y))
    if num_examples is not None:
        x, y = x[order[:num_examples]], y[order[:num_examples]]
    if label_noise:
        y = jnp.asarray(with_noise(np.array(y), label_noise, num_classes, random))
    splits["train"] = x, y
    if (input_scale, input_offset) != (1.0, 0.0):
        for split, (x, y) in splits.items():
            splits[split] = input_scale * (x + input_offset), y
    return splits


def with_noise(
    y: np.ndarray, share: float, num_classes: int, random: np.random.RandomState
) -> np.ndarray:
    """Labels [n], a share of them replaced, in place, each by another class."""
    wrong = random.permutation(len(y))[: round(share * len(y))]
    y[wrong] = (y[wrong] + random.randint(1, num_classes, size=len(wrong))) % num_classes
    return y


@lru_cache
def _dataset(
    name: str, classes: tuple[int, ...] | None, seed: int, sizes: tuple[int, ...]
) -> dict[Split, Examples]:
    found = source(name, classes, seed, sizes[0])
    kind = jnp.int32 if has_classes(name) else jnp.float32
    return {
        split: (
            jnp.asarray(found.x(indices[:size]), jnp.float32),
            jnp.asarray(found.y(indices[:size]), kind),
        )
        for split, indices, size in zip(SPLITS, found.indices, sizes, strict=True)
    }


class Source(NamedTuple):
    """A dataset that is split and standardized, before its splits are cut to size."""

    indices: list[np.ndarray]  # of each split's examples, shuffled
    x: Callable[[np.ndarray], np.ndarray]  # indices [n] -> inputs [n, D]
    y: Callable[[np.ndarray], np.ndarray]  # indices [n] -> labels [n] or targets [n, K]


def source(
    name: str,
    classes: tuple[int, ...] | None = None,
    seed: int = 0,
    sample: int = MAX_SIZES[0],
) -> Source:
    """What `dataset` takes its examples from; `sample` of the train split standardize.

    Raises:
      ConfigError: as `dataset`.
    """
    raw = _raw(name)
    every = (len(raw.y),) * len(SPLITS)
    indices = split_indices(raw.group, seed, num_test=raw.num_test, sizes=every)
    train = indices[0][:sample]
    # A pixel that is almost always blank would explode if it had a scale of its own.
    x, y = _standardized(raw.x, train, axis=None if raw.image else 0), raw.y.__getitem__
    if not has_classes(name):
        y = _standardized(raw.y, train, axis=0)
    if classes is not None:
        indices = [i[np.isin(raw.y[i], classes)] for i in indices]
        y = partial(_relabeled, raw.y, np.asarray(classes))
    return Source(indices, x, y)


def _relabeled(y: np.ndarray, classes: np.ndarray, i: np.ndarray) -> np.ndarray:
    return np.argmax(y[i][:, None] == classes, axis=1)


def _standardized(values: Any, train: np.ndarray, *, axis: int | None):
    """`indices -> rows`, their columns centered and brought to unit RMS, each or all, by
    the rows `train`; a column that is constant there keeps its scale.
    """
    train = values[train].astype(np.float64)
    mean = train.mean(axis=0)
    scale = np.sqrt(((train - mean) ** 2).mean(axis=axis))
    scale = np.where(np.ptp(train, axis=axis) == 0, 1.0, scale)
    return lambda i: (values[i] - mean) / scale


@lru_cache(maxsize=2)  # two, because a dataset from disk may be large
def _raw(name: str) -> Raw:
    if name in DATASETS:
        return DATASETS[name]()
    if not is_data_path(name):
        known = ", ".join(f"`{known}`" for known in DATASETS)
        hint = f"known: {known}; the path of a dataset has a `/` or a suffix"
        raise unknown_name("dataset", name, DATASETS, hint=hint)
    return disk.read(name)


def has_classes(name: str) -> bool:
    """Whether a dataset's examples have classes, or targets.

    Raises:
      ConfigError: as `dataset`.
    """
    return np.issubdtype(_raw(name).y.dtype, np.integer)


def classes_of(name: str) -> tuple[int, ...]:
    """The classes that a dataset has examples of.

    Raises:
      ConfigError: as `dataset`.
    """
    return tuple(np.unique(_raw(name).y).tolist())


def train_size(name: str, classes: tuple[int, ...] | None = None, seed: int = 0) -> int:
    """How many examples a dataset's train split may have.

    Args:
      name: as of `dataset`.
      classes: likewise.
      seed: likewise.

    Raises:
      ConfigError: as `dataset`.
    """
    return len(source(name, classes, seed).indices[0])


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


def data_hash(data: Data) -> str:
    """12 digits of the SHA-256 of a task's data: bytes, shapes and types."""
    found = hashlib.sha256()
    for array in map(np.asarray, jax.tree.leaves(data)):
        found.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return found.hexdigest()[:12]


def sample_batch(key: PRNGKey, examples: Batch, batch_size: int) -> Batch:
    """A minibatch of arrays [N, ...], drawn uniformly with replacement: [B, ...]."""
    size = len(jax.tree.leaves(examples)[0])
    # Bits modulo N: uniform to within N / 2³².
    index_B = prng.bits(key, batch_size) % jnp.uint32(size)
    return jax.tree.map(lambda x: x.at[index_B].get(mode="promise_in_bounds"), examples)
