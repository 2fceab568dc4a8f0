"""Learning curves of many runs in one compiled program, whatever the optimizer.

A *lane* is one run: a theta and a seed. All lanes of a program share the task's
functions, the run length and the data, which are arguments, so that every budget, trial
and seed of an optimizer on tasks of one shape uses one compiled program. Two lanes with
one key have the same initial parameters and minibatches, whatever their optimizer: runs
are paired.

Losses are read on the fixed evaluation batches at 100 points along the run, or at every
`read_every`-th of them; `test` only where it is asked for, so that tuning does not see
it. Tasks may draw from their keys by `jax.random`: these must be of an implementation
that `vmap` does not change (threefry, not rbg).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lopt import prng
from lopt.base import (
    Array,
    Data,
    LearnedOptimizer,
    MetaParams,
    ModelState,
    Params,
    PRNGKey,
    Split,
    Task,
)
from lopt.unroll import inner_step

NUM_POINTS = 100
"""Readings along a run."""

NEVER = NUM_POINTS + 1
"""A `read_every` that reads nothing: for timing."""


class Reading(NamedTuple):
    """Losses at one point, bounded; accuracies are NaN where the task has none."""

    train_loss: Array  # shape=[lanes], mean over the steps since the last point
    valid_loss: Array  # shape=[lanes]
    valid_accuracy: Array  # shape=[lanes]
    test_loss: Array  # shape=[lanes]
    test_accuracy: Array  # shape=[lanes]


class Curves(NamedTuple):
    """Readings along runs."""

    readings: Reading  # leaves [points, lanes]
    diverged: Array  # shape=[lanes], bool: a train or valid loss was not finite


class _Lane(NamedTuple):
    params: Params
    model_state: ModelState
    opt_state: optax.OptState
    loss_sum: Array  # shape=[], of the steps since the last point
    finite: Array  # shape=[], bool


CurvesFn = Callable[[MetaParams, PRNGKey, Array, Array, Array, Data], Curves]


def point_steps(num_steps: int) -> list[int]:
    """The number of steps taken at each of the points of a run."""
    return [_step_at(num_steps, point) for point in range(NUM_POINTS)]


def _step_at(num_steps, point):
    return (num_steps * (point + 1) + NUM_POINTS - 1) // NUM_POINTS


def curves(task: Task, lopt: LearnedOptimizer) -> CurvesFn:
    """The program that trains a task in many lanes; jit it.

    Returns:
      `(thetas, keys, num_steps, read_every, read_test, data) -> Curves`, with thetas
      and keys having a leading axis of lanes, `num_steps` and `read_every` int32 [] and
      `read_test` bool []. A point that is not read repeats the one before; `loss_bound`
      stands for what has not been read, was not finite, or exceeds it.
    """
    start, step, read = _start(task, lopt), _step(task, lopt), _read(task)
    start = jax.vmap(start, in_axes=(0, 0, None, None))
    step = jax.vmap(step, in_axes=(0, 0, 0, None, None, None))

    def run(thetas, keys, num_steps, read_every, read_test, data) -> Curves:
        lanes = start(thetas, keys, num_steps, data)
        unread = jnp.full(keys.shape, task.loss_bound)
        unknown = jnp.full(keys.shape, jnp.nan)
        first = Reading(unread, unread, unknown, unread, unknown)

        def point(carry, index):
            lanes, before = carry
            begin = _step_at(num_steps, index - 1)
            end = _step_at(num_steps, index)
            lanes = lax.fori_loop(
                begin,
                end,
                lambda t, lanes: step(thetas, lanes, keys, t, num_steps, data),
                lanes,
            )
            wanted = (end > begin) & ((index + 1) % read_every == 0)
            lanes, now = lax.cond(
                wanted,
                lambda: read(lanes, before, keys, end - begin, read_test, data),
                lambda: (lanes, before),
            )
            return (lanes, now), now

        (lanes, _), readings = lax.scan(
            point, (lanes, first), jnp.arange(NUM_POINTS, dtype=jnp.int32)
        )
        return Curves(readings, ~lanes.finite)

    return run


def _start(task: Task, lopt: LearnedOptimizer):
    def start(theta, key, num_steps, data) -> _Lane:
        params, model_state = task.init(_keys(key)[0], data)
        optimizer = lopt.opt_fn(theta, specs=task.specs, num_steps=num_steps)
        opt_state = optimizer.init(params)
        return _Lane(params, model_state, opt_state, jnp.zeros(()), jnp.asarray(True))

    return start


def _step(task: Task, lopt: LearnedOptimizer):
    def step(theta, lane: _Lane, key, t, num_steps, data) -> _Lane:
        optimizer = lopt.opt_fn(theta, specs=task.specs, num_steps=num_steps)
        loss, params, model_state, opt_state = inner_step(
            task,
            optimizer,
            lane.params,
            lane.model_state,
            lane.opt_state,
            prng.split(prng.fold_in(_keys(key)[1], t), 2),
            data,
        )
        loss = loss.astype(jnp.float32)
        finite = lane.finite & jnp.isfinite(loss)
        return _Lane(params, model_state, opt_state, lane.loss_sum + loss, finite)

    return step


def _read(task: Task):
    def measure(lane: _Lane, key, split: Split, data) -> tuple[Array, Array]:
        batch = task.eval_batch(data, split)
        loss, (_, metrics) = task.loss(
            lane.params, lane.model_state, batch, _keys(key)[2]
        )
        accuracy = metrics.get("accuracy", jnp.nan)
        return loss.astype(jnp.float32), jnp.asarray(accuracy, jnp.float32)

    def measure_all(lanes, keys, split: Split, data):
        return jax.vmap(lambda lane, key: measure(lane, key, split, data))(lanes, keys)

    def bounded(loss):
        # A comparison with NaN is false: NaN becomes the bound too.
        return jnp.where(loss < task.loss_bound, loss, task.loss_bound)

    def read(lanes: _Lane, before: Reading, keys, num_steps, read_test, data):
        valid_loss, valid_accuracy = measure_all(lanes, keys, "valid", data)
        test_loss, test_accuracy = lax.cond(
            read_test,
            lambda: measure_all(lanes, keys, "test", data),
            lambda: (before.test_loss, before.test_accuracy),
        )
        train_loss = bounded(lanes.loss_sum / num_steps)
        now = Reading(
            train_loss,
            bounded(valid_loss),
            valid_accuracy,
            bounded(test_loss),
            test_accuracy,
        )
        finite = lanes.finite & jnp.isfinite(valid_loss)
        zero = jnp.zeros_like(lanes.loss_sum)
        return lanes._replace(loss_sum=zero, finite=finite), now

    return read


def _keys(key: PRNGKey) -> tuple[PRNGKey, PRNGKey, PRNGKey]:
    """A lane's keys, by purpose: initialization, steps, readings."""
    init_key, step_key, read_key = prng.split(key, 3)
    return init_key, step_key, read_key
