"""The inner loop, once, for learned and hand-designed optimizers."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from lopt.base import (
    Array,
    Data,
    LearnedOptimizer,
    MetaParams,
    ModelState,
    Params,
    PRNGKey,
    Task,
    Unroll,
    UnrollState,
)

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
      The minibatch's loss before the step, and the new parameters, model state and
      optimizer state.
    """
    batch = task.batch(keys[0], data, "train")
    value_and_grad = jax.value_and_grad(task.loss, has_aux=True)
    (loss, (model_state, _)), grads = value_and_grad(params, model_state, batch, keys[1])
    updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
    return loss, optax.apply_updates(params, updates), model_state, opt_state


def unroll(
    task: Task,
    lopt: LearnedOptimizer,
    *,
    length: int = 50,
    min_steps: int = 100,
    max_steps: int = 1000,
    meta_split: Literal["meta", "train"] = "meta",
    meta_every: int = 5,
    meta_transform: Literal["log", "raw"] = "log",
) -> Unroll:
    """The task trained by the optimizer, in truncations.

    Args:
      task: the inner problem.
      lopt: what trains it.
      length: K, inner steps in a truncation.
      min_steps: shortest run, rounded up to a multiple of K; lengths are log-uniform.
      max_steps: longest run, rounded up likewise.
      meta_split: where the meta-loss is read: "meta", the whole of that split, or
        "train", the minibatches that the steps are taken on.
      meta_every: inner steps between readings on the whole split; divides K.
      meta_transform: "log" of the bounded loss, or the bounded loss itself, "raw".

    Raises:
      ValueError: `meta_every` does not divide `length`.
    """
    if length % meta_every:
        raise ValueError(
            f"`unroll.meta_every` must divide `unroll.length` = {length}, "
            f"got {meta_every}"
        )
    shortest, longest = math.ceil(min_steps / length), math.ceil(max_steps / length)

    def transform(loss: Array) -> Array:
        # A comparison with NaN is false, so NaN stays NaN: the estimator counts it.
        bounded = jnp.where(loss > task.loss_bound, task.loss_bound, loss)
        if meta_transform == "raw":
            return bounded
        return jnp.log(jnp.where(bounded < LOG_FLOOR, LOG_FLOOR, bounded))

    def init(theta: MetaParams, key: PRNGKey, data: Data) -> UnrollState:
        init_key, length_key = jax.random.split(key)
        low, high = math.log(shortest), math.log(longest)
        draw = jax.random.uniform(length_key, minval=low, maxval=high + 1e-6)
        truncations = jnp.clip(jnp.ceil(jnp.exp(draw)), shortest, longest)
        num_steps = truncations.astype(jnp.int32) * length
        params, model_state = task.init(init_key, data)
        optimizer = lopt.opt_fn(theta, specs=task.specs, num_steps=num_steps)
        opt_state = optimizer.init(params)
        step = jnp.zeros((), jnp.int32)
        return UnrollState(params, model_state, opt_state, step, num_steps)

    def advance(
        theta: MetaParams, state: UnrollState, key: PRNGKey, data: Data
    ) -> tuple[Array, UnrollState]:
        optimizer = lopt.opt_fn(theta, specs=task.specs, num_steps=state.num_steps)

        def step(carry, keys):
            loss, params, model_state, opt_state = inner_step(
                task, optimizer, *carry, keys=keys, data=data
            )
            return (params, model_state, opt_state), loss

        def stretch(carry, keys):
            step_keys, read_key = keys[:-1].reshape(meta_every, 2), keys[-1]
            carry, losses = jax.lax.scan(step, carry, step_keys)
            if meta_split == "train":
                return carry, losses
            params, model_state, _ = carry
            batch = task.eval_batch(data, meta_split)
            return carry, task.loss(params, model_state, batch, read_key)[0]

        # One draw for the whole truncation: cheaper to compile and to run.
        keys = jax.random.split(key, (length // meta_every, 2 * meta_every + 1))
        carry = (state.params, state.model_state, state.opt_state)
        (params, model_state, opt_state), losses = jax.lax.scan(stretch, carry, keys)
        state = UnrollState(
            params, model_state, opt_state, state.step + length, state.num_steps
        )
        return transform(losses.reshape(-1)), state

    worst = math.log(task.loss_bound) if meta_transform == "log" else task.loss_bound
    return Unroll(init, advance, length, longest * length, worst)
