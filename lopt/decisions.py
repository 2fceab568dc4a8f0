"""What a learned optimizer with a policy decides while it trains a task."""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import optax

from lopt import prng
from lopt.base import Array, Data, ModelState, Params, PRNGKey, Task
from lopt.checkpoint import Checkpoint
from lopt.optimizers.layerwise import LayerwiseState, layerwise_policy
from lopt.optimizers.policy import Policy
from lopt.packing import packing
from lopt.unroll import inner_step

_Carry = tuple[Params, ModelState, optax.OptState, Array]

Recorder = Callable[[PRNGKey, Array, Array, Data], tuple[Array, Policy]]
"""`(key, steps [P], num_steps [], data) -> (losses [P], policies)`, the leaves of the
policies [P, L, ...], tensors in the order of the packing of the task's specs."""


def has_policy(checkpoint: Checkpoint) -> bool:
    """Whether the optimizer has a policy that fits any network."""
    is_layerwise = checkpoint.header.optimizer == "layerwise"
    return is_layerwise and "embedding" not in checkpoint.theta


def recorder(checkpoint: Checkpoint, task: Task) -> Recorder:
    """The program that trains a task and keeps what was decided; jit it.

    Args:
      checkpoint: an optimizer that `has_policy`.
      task: what it trains.

    Returns:
      A `Recorder`. `steps` are those whose loss, of the minibatch, and decisions are
      kept; they do not decrease, and a run goes on to the last of them. `num_steps` is
      the run length that the optimizer is told.
    """
    pack, theta = packing(task.specs), checkpoint.theta
    options = checkpoint.header.options

    def record(key: PRNGKey, steps: Array, num_steps: Array, data: Data):
        optimizer = checkpoint.lopt.opt_fn(theta, specs=task.specs, num_steps=num_steps)
        init_key, run_key = prng.split(key, 2)

        def step(t, carry: _Carry) -> _Carry:
            keys = prng.split(prng.fold_in(run_key, t), 2)
            loss, params, model_state, opt_state = inner_step(
                task, optimizer, *carry[:-1], keys, data
            )
            return params, model_state, opt_state, loss.astype(jnp.float32)

        def stretch(carry: _Carry, ends: tuple[Array, Array]):
            carry = jax.lax.fori_loop(*ends, step, carry)
            state = cast(LayerwiseState, carry[2])
            policy = layerwise_policy(theta, state, pack, num_steps, options)
            return carry, (carry[3], policy)

        params, model_state = task.init(init_key, data)
        start = (params, model_state, optimizer.init(params), jnp.zeros(()))
        ends = steps + 1
        begins = jnp.concatenate([jnp.zeros((1,), ends.dtype), ends[:-1]])
        return jax.lax.scan(stretch, start, (begins, ends))[1]

    return record
