"""Datasets in chunks: what does not fit on the device comes to it a part at a time.

A chunk is so many examples of the train split. One after the other, chunks go through
the split in a new order every epoch, so that each example is in one chunk of an epoch; a
chunk may end one epoch and begin the next. What is in chunk c is a function of c alone:
whoever resumes a run at any step finds there what would have been there.

Every chunk is standardized as the other splits are, by a sample of the train split.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from lopt.base import Data, Task
from lopt.data import classes_of, has_classes, source, with_noise

Chunk = tuple[np.ndarray, np.ndarray]
"""Examples on the host: `lopt.data.Examples` but for that."""


@lru_cache
def chunks(
    name: str,
    *,
    size: int,
    label_noise: float = 0.0,
    input_scale: float = 1.0,
    input_offset: float = 0.0,
    classes: tuple[int, ...] | None = None,
    seed: int = 0,
) -> Callable[[int], Chunk]:
    """`c -> chunk c`, from 0; the same function for the same arguments.

    Args:
      name: as of `lopt.data.dataset`, and likewise all others but `size`.
      size: examples of a chunk, at most those of the train split.

    Raises:
      ConfigError: no dataset has this name; when a chunk is read, too, where files have
        changed.
    """
    found = source(name, classes, seed)
    indices = found.indices[0]
    y, kind = found.y(indices), np.float32
    if has_classes(name):
        random, kind = np.random.RandomState(seed), np.int32
        y = with_noise(y, label_noise, len(classes or classes_of(name)), random)

    @lru_cache(maxsize=2)  # tasks that differ in their networks alone ask for the same
    def chunk(number: int) -> Chunk:
        rows = places(number, size, len(indices), seed)
        # In the order of the file: minibatches are drawn from all of a chunk.
        rows = rows[np.argsort(indices[rows])]
        x = found.x(indices[rows]).astype(np.float32)
        x = np.float32(input_scale) * (x + np.float32(input_offset))
        return x, y[rows].astype(kind)

    return chunk


def places(chunk: int, size: int, total: int, seed: int) -> np.ndarray:
    """Which of `total` examples are in a chunk of `size`, [size].

    The orders of all epochs make one sequence; a chunk is a stretch of it.
    """
    epoch, start = divmod(chunk * size, total)
    found = _order(seed, epoch, total)[start : start + size]
    more = size - len(found)
    return np.concatenate([found, _order(seed, epoch + 1, total)[:more]])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, total: int) -> np.ndarray:
    # RandomState, because numpy promises that its stream will never change.
    return np.random.RandomState([seed, epoch]).permutation(total)


def with_data(task: Task, function: Callable[[Data], Data]) -> Task:
    """The task with what a function makes of its data, and of each chunk of them."""
    stream = task.stream
    made = None if stream is None else lambda chunk: function(stream(chunk))
    return replace(task, data=function(task.data), stream=made)
