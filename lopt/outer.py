"""Theta from one outer step to the next: its update, and what is kept beside it.

Meta-gradients are normalized per task where that is asked for, and theta is averaged.
Both keep exponential moving averages without a bias towards where they started: after n
values the newest one has the weight (1 - d)/(1 - dⁿ), which is 1 for the first.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt.base import Array, EstimatorState, MetaParams, PRNGKey

SCALE_DECAY = 0.95
"""Of the running mean squares that meta-gradients are normalized by."""


class Selected(NamedTuple):
    """The best theta so far, by the score of a selection (run/selection.py)."""

    theta: MetaParams
    score: Array  # shape=[], the lower the better; inf before the first selection
    step: Array  # shape=[], int32: outer steps that led to it, 0: none yet
    is_average: Array  # shape=[], bool: whether it is an average of theta
    number: Array  # shape=[], int32: selections so far
    credit: Array  # shape=[], inner steps of training not yet charged for a selection


class TaskScales(NamedTuple):
    """How large the meta-gradients of each task have been."""

    mean_square: Array  # shape=[tasks], running mean of squared norms
    number: Array  # shape=[tasks], int32: finite meta-gradients so far


class TrainState(NamedTuple):
    """Everything that resuming needs, bit for bit; what a run does not use is ()."""

    theta: MetaParams
    outer_opt_state: optax.OptState
    estimator_states: tuple[EstimatorState, ...]  # one a group, leaves [tasks, N, ...]
    step: Array  # shape=[], int32: outer steps taken
    key: PRNGKey  # of all steps: each folds its number into it
    average: MetaParams | tuple[()] = ()
    task_scales: TaskScales | tuple[()] = ()
    selected: Selected | tuple[()] = ()


class Metrics(NamedTuple):
    """What one outer step reports; device arrays."""

    loss: Array  # shape=[], the weighted mean meta-loss of the tasks that took part
    task_losses: Array  # shape=[tasks], in the order of `Trainer.task_names`
    stepped: Array  # shape=[tasks], bool: which took part; the others' losses are 0
    grad_norm: Array  # shape=[]
    num_diverged: Array  # shape=[], int32: inner runs
    num_steps: Array  # shape=[], int32: inner steps taken
    skipped: Array  # shape=[], bool: a non-finite update, not applied to theta


def task_scales(num_tasks: int) -> TaskScales:
    """Before the first meta-gradient."""
    return TaskScales(jnp.zeros(num_tasks), jnp.zeros(num_tasks, jnp.int32))


def normalized(
    grads: MetaParams, scales: TaskScales, stepped: Array | bool = True
) -> tuple[MetaParams, TaskScales]:
    """Each task's meta-gradient divided by the running RMS of its norm, this one in it.

    A task whose meta-loss is a thousand times another's then moves theta no further. The
    first meta-gradient of a task gets norm 1. One that is not finite stays so, for the
    trainer to refuse, and does not count.

    Args:
      grads: leaves [tasks, ...].
      scales: before this meta-gradient.
      stepped: which tasks have one, bool [tasks]; those that rest do not count either.
    """
    leaves = jax.tree.leaves(grads)
    squares = [jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))) for g in leaves]
    square = jnp.sum(jnp.stack(squares), axis=0)
    finite = jnp.isfinite(square) & stepped
    number = scales.number + finite
    weight = jnp.where(finite, _newest_weight(SCALE_DECAY, number), 0.0)
    news = jnp.where(finite, square, 0.0) - scales.mean_square
    mean_square = scales.mean_square + weight * news
    factor = jnp.where(mean_square > 0, jax.lax.rsqrt(mean_square), 0.0)
    grads = jax.tree.map(
        lambda g: g * factor.reshape(-1, *[1] * (g.ndim - 1)).astype(g.dtype), grads
    )
    return grads, TaskScales(mean_square, number)


def updated(
    optimizer: optax.GradientTransformation,
    grad: MetaParams,
    opt_state: optax.OptState,
    theta: MetaParams,
) -> tuple[MetaParams, optax.OptState, Array]:
    """Theta and its optimizer's state after a meta-gradient.

    Returns:
      The two, as they were where the update is not finite; and whether it is.
    """
    updates, new_state = optimizer.update(grad, opt_state, theta)
    finite = jnp.all(
        jnp.asarray([jnp.all(jnp.isfinite(u)) for u in jax.tree.leaves(updates)])
    )
    new, old = (optax.apply_updates(theta, updates), new_state), (theta, opt_state)
    theta, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), new, old
    )
    return theta, opt_state, finite


def averaged(average: MetaParams, theta: MetaParams, step: Array, decay: float):
    """The moving average of theta over outer steps.

    Args:
      average: of steps 1 … step - 1; any theta at step 1.
      theta: after this step.
      step: the number of this step, from 1.
      decay: d, in (0, 1); about 1/(1 - d) steps are averaged.
    """
    weight = _newest_weight(decay, step)
    return jax.tree.map(
        lambda a, t: a + (weight * (t - a)).astype(a.dtype), average, theta
    )


def _newest_weight(decay: float, count: Array) -> Array:
    """(1 - d)/(1 - dⁿ), of the newest of n values; n = 0 counts as 1."""
    powers = jnp.float32(decay) ** jnp.maximum(count, 1)
    return (1 - jnp.float32(decay)) / (1 - powers)
