"""Batch normalization: moments of the minibatch, and running ones in the model state.

    h ← (h - m) / √(v + 10⁻⁵),    running ← 0.9 running + 0.1 (m, v) after each step

m and v are a feature's mean and variance over all examples and pixels: the minibatch's
where it is trained on, the running ones where a curve is read. (Ioffe and Szegedy, Batch
normalization, arXiv 1502.03167, 2015.)
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.base import Array, Batch, Data, ModelState, Params, PRNGKey, Split, Task
from lopt.families.stateless import Measured

DECAY = 0.9


class Moments(NamedTuple):
    """Of the features of a layer."""

    mean: Array  # shape=[D]
    variance: Array  # shape=[D]


LayerMoments = dict[str, Moments | None]
"""By layer; None of one that is not normalized so."""
Measure = Callable[[Params, LayerMoments, Batch, PRNGKey], tuple[Measured, LayerMoments]]
"""`(params, running, batch, key) -> ((loss, metrics), own)`: a loss by running moments,
or by the batch's own where `running` is empty; and these."""


class WholeSplit(NamedTuple):
    """What a curve is read on: no plain pair, so that the loss tells it from one."""

    x: Array
    y: Array


def normalized(h: Array, running: Moments | None) -> tuple[Array, Moments]:
    """`h` [D, ...] by the running moments, or by its own where None; its own moments."""
    axes = tuple(range(1, h.ndim))
    own = Moments(jnp.mean(h, axes), jnp.var(h, axes))
    mean, variance = (x.reshape(-1, *[1] * len(axes)) for x in running or own)
    return (h - mean) * jax.lax.rsqrt(variance + 1e-5), own


def with_running_moments(task: Task, measure: Measure) -> Task:
    """A task without model state, with the running moments of its layers with a `scale`.

    Args:
      task: on a dataset's splits.
      measure: its loss.
    """

    def init(key: PRNGKey, data: Data) -> tuple[Params, ModelState]:
        params, _ = task.init(key, data)
        scales = {name: x["scale"] for name, x in params.items() if "scale" in x}
        start = {n: Moments(jnp.zeros_like(x), x) for n, x in scales.items()}
        return params, start

    def eval_batch(data: Data, split: Split) -> Batch:
        return WholeSplit(*task.eval_batch(data, split))

    def loss(params: Params, running: LayerMoments, batch: Batch, key: PRNGKey):
        if isinstance(batch, WholeSplit):
            (value, metrics), _ = measure(params, running, batch, key)
            return value, (running, metrics)
        (value, metrics), own = measure(params, {}, batch, key)
        moved = jax.tree.map(lambda r, o: DECAY * r + (1 - DECAY) * o, running, own)
        return value, (moved, metrics)

    return replace(task, init=init, eval_batch=eval_batch, loss=loss)
