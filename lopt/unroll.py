"""The inner loop, once, for learned and hand-designed optimizers."""

import math
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lopt import prng
from lopt.base import (
    UNSCALED_LOSS,
    Array,
    Data,
    LearnedOptimizer,
    MetaParams,
    ModelState,
    Params,
    PRNGKey,
    Reading,
    Rematerialize,
    Split,
    Task,
    Unroll,
    UnrollState,
)
from lopt.config import BrokenRule


class Referenced(NamedTuple):
    """A task's data, and what a reference run of the task got to (references.py)."""

    data: Data
    initial: Array | np.floating  # shape=[], its mean loss before the first step
    floor: Array | np.floating  # shape=[], the lowest it got to, less than `initial`


LOG_FLOOR = 1e-6
"""The logarithm of the meta-loss does not reward losses below this."""


def inner_step(
    task: Task,
    optimizer: optax.GradientTransformationExtraArgs,
    params: Params,
    model_state: ModelState,
    opt_state: optax.OptState,
    keys: PRNGKey,  # shape=[2], for the minibatch and for the loss
    data: Data,
) -> tuple[Array, Params, ModelState, optax.OptState]:
    """One step of training on a minibatch of the `train` split.

    Returns:
      The minibatch's loss before the step, unscaled, and the new parameters, model state
      and optimizer state.
    """
    batch = task.batch(keys[0], data, "train")
    value_and_grad = jax.value_and_grad(task.loss, has_aux=True)
    (loss, aux), grads = value_and_grad(params, model_state, batch, keys[1])
    model_state, metrics = aux
    updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
    loss = metrics.get(UNSCALED_LOSS, loss)
    return loss, optax.apply_updates(params, updates), model_state, opt_state


MetaLoss = Literal["mean", "last", "minimum", "rising"]
RunLength = Literal["log-uniform", "constant", "curriculum"]


def unroll(
    task: Task,
    lopt: LearnedOptimizer,
    *,
    length: int = 50,
    min_steps: int = 100,
    max_steps: int = 1000,
    run_length: RunLength = "log-uniform",
    meta_loss: MetaLoss = "mean",
    meta_split: Split = "meta",
    meta_every: int = 5,
    meta_transform: Literal["log", "raw", "clipped", "relative"] = "log",
) -> Unroll:
    """The task trained by the optimizer, in truncations.

    Args:
      task: the inner problem.
      lopt: what trains it.
      length: K, inner steps in a truncation.
      min_steps: shortest run, rounded up to a multiple of K.
      max_steps: longest run, rounded up likewise.
      run_length: "log-uniform" between the two; "constant", always the longest; or
        "curriculum": log-uniform up to a limit that grows from the shortest to the
        longest, by the same factor in equal parts of the outer steps.
      meta_loss: of a run, from its readings: their mean, the last one, the lowest one,
        or their mean with weights "rising" as 0.25 + 3 (t/T)³.
      meta_split: where the loss is read: "meta", the whole of that split (selection:
        of "valid"), or "train", the minibatches that the steps are taken on.
      meta_every: inner steps between readings on the whole split; divides K.
      meta_transform: of a reading: "raw", as it is; "clipped", at most the task's
        `loss_bound`; "log", the logarithm of that; or "relative" to a reference run: the
        clipped loss is mapped linearly, so that the reference goes from 1 to 0. The data
        that the unroll is given must then be `Referenced`.

    Raises:
      BrokenRule: `meta_every` does not divide `length`, or the task lacks `meta_split`.
    """
    if length % meta_every:
        rule = f"divide `unroll.length` = {length}"
        raise BrokenRule("unroll.meta_every", rule, meta_every)
    if meta_split not in task.splits:
        rule = f"be a split that task `{task.name}` has ({', '.join(task.splits)})"
        hint = "`unroll.meta_split=train` reads the minibatches that steps are taken on"
        raise BrokenRule("unroll.meta_split", rule, meta_split, hint=hint)
    shortest, longest = math.ceil(min_steps / length), math.ceil(max_steps / length)

    def draw_num_steps(key: PRNGKey, progress: Array) -> Array:
        limit = jnp.asarray(longest, jnp.float32)
        if run_length == "constant":
            return longest * jnp.asarray(length, jnp.int32)
        if run_length == "curriculum":
            limit = jnp.floor(shortest * (longest / shortest) ** progress + 0.5)
        # n with probability log((n + 1)/n), up to the limit.
        draw = prng.uniform(key) * jnp.log((limit + 1) / shortest)
        truncations = jnp.clip(jnp.floor(shortest * jnp.exp(draw)), shortest, limit)
        return truncations.astype(jnp.int32) * length

    def init(theta: MetaParams, key: PRNGKey, data: Data, num_steps: Array):
        params, model_state = task.init(key, _own(data))
        optimizer = lopt.opt_fn(theta, specs=task.specs, num_steps=num_steps)
        return UnrollState(
            params=params,
            model_state=model_state,
            opt_state=optimizer.init(params),
            step=jnp.zeros((), jnp.int32),
            num_steps=num_steps,
            best=jnp.asarray(jnp.inf, jnp.float32),
        )

    def advance(
        theta: MetaParams,
        state: UnrollState,
        key: PRNGKey,
        data: Data,
        *,
        rematerialize: Rematerialize = "nothing",
    ) -> tuple[Reading, UnrollState]:
        optimizer = lopt.opt_fn(theta, specs=task.specs, num_steps=state.num_steps)

        own = _own(data)

        def step(carry, keys):
            loss, params, model_state, opt_state = inner_step(
                task, optimizer, *carry, keys=keys, data=own
            )
            return (params, model_state, opt_state), loss

        def stretch(carry, keys):
            step_keys, read_key = keys[:-1].reshape(meta_every, 2), keys[-1]
            carry, losses = jax.lax.scan(remat_step, carry, step_keys)
            if meta_split == "train":
                return carry, losses
            params, model_state, _ = carry
            batch = task.eval_batch(own, meta_split)
            return carry, task.loss(params, model_state, batch, read_key)[0]

        keep, forget = lambda f: f, partial(jax.checkpoint, prevent_cse=False)
        remat_step = (keep if rematerialize == "nothing" else forget)(step)
        remat_stretch = (forget if rematerialize == "stretches" else keep)(stretch)
        keys = prng.split(key, length // meta_every, 2 * meta_every + 1)
        carry = (state.params, state.model_state, state.opt_state)
        carry, losses = jax.lax.scan(remat_stretch, carry, keys)
        losses = losses.reshape(-1)
        readings = _transformed(losses, task.loss_bound, meta_transform, data)
        loss, best = _meta_loss(readings, state, length, meta_loss)
        diverged = ~jnp.all(jnp.isfinite(losses))
        step_count = state.step + length
        state = UnrollState(*carry, step_count, state.num_steps, best)
        return Reading(loss, diverged), state

    return Unroll(draw_num_steps, init, advance, length, longest * length)


def _own(data: Data) -> Data:
    """A task's own data, without its reference."""
    return data.data if isinstance(data, Referenced) else data


def _transformed(losses: Array, bound: float, transform: str, data: Data) -> Array:
    """Losses as the meta-loss takes them; one that is not finite counts as the bound."""
    losses = jnp.where(jnp.isfinite(losses), losses, bound)
    if transform == "raw":
        return losses
    clipped = jnp.where(losses > bound, bound, losses)
    if transform == "clipped":
        return clipped
    if transform == "relative":
        return (clipped - data.floor) / (data.initial - data.floor)
    return jnp.log(jnp.where(clipped < LOG_FLOOR, LOG_FLOOR, clipped))


def _meta_loss(
    readings: Array, before: UnrollState, length: int, meta_loss: MetaLoss
) -> tuple[Array, Array]:
    """A truncation's part of its run's meta-loss, and the lowest reading so far.

    Parts are such that their mean over the run is the run's meta-loss: for "minimum",
    each is by how much the truncation lowered the minimum, and the first the minimum.

    Args:
      readings: [M], equally spaced over the truncation, the last at its end.
      before: the run before the truncation.
      length: K.
      meta_loss: as in `unroll`.
    """
    best = jnp.minimum(before.best, jnp.min(readings))
    num_truncations = before.num_steps / length
    if meta_loss == "mean":
        return jnp.mean(readings), best
    if meta_loss == "minimum":
        lowered = best - jnp.where(before.step > 0, before.best, 0.0)
        return num_truncations * lowered, best
    is_last = before.step + length >= before.num_steps
    if meta_loss == "last":
        return jnp.where(is_last, num_truncations * readings[-1], 0.0), best
    spacing = length / len(readings)
    steps = before.step + spacing * jnp.arange(1, len(readings) + 1)
    weights = 0.25 + 3 * (steps / before.num_steps) ** 3
    # The mean of the weights over the run: Σ i³ over n readings is (n (n + 1) / 2)².
    mean_weight = 0.25 + 0.75 * (1 + spacing / before.num_steps) ** 2
    return jnp.mean(weights * readings) / mean_weight, best
