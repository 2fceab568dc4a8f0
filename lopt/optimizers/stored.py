"""Accumulators that are kept in half the memory, and computed with in float32.

A running mean whose decay is 0.999 moves by 1/1000 a step, less than half of what two
neighboring bfloat16 are apart: rounded to the nearest, a second moment would never come
down again. So it is rounded up or down by chance, to what it is in the mean. The chance
is a hash of the number and of the step: the same run has the same bits, needs no key, and
what stands still in one step has another chance in the next.

References:
  Gupta, Agrawal, Gopalakrishnan, Narayanan, Deep learning with limited numerical
  precision, 2015, arXiv 1502.02551: stochastic rounding.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from lopt.base import Array

STATE_DTYPES = ("float32", "bfloat16")
StateDtype = Literal["float32", "bfloat16"]
_ODD = (0x9E3779B1, 0x85EBCA6B)
"""Multipliers that carry low bits into high ones."""


def stored(
    optimizer: optax.GradientTransformationExtraArgs,
    state_dtype: StateDtype,
    accumulators: Sequence[str],
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, some fields of its state in this type between its updates.

    Args:
      optimizer: its state is a `NamedTuple` with a `step`.
      state_dtype: "float32": the optimizer as it is.
      accumulators: fields, trees of arrays, of which those in float32 are converted.
    """
    if state_dtype == "float32":
        return optimizer

    def narrowed(state: Any) -> Any:
        parts = {name: getattr(state, name) for name in accumulators}
        return state._replace(**jax.tree.map(lambda x: _narrow(x, state.step), parts))

    def init_fn(params):
        return narrowed(optimizer.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        parts = {name: getattr(state, name) for name in accumulators}
        state = state._replace(**jax.tree.map(_widen, parts))
        updates, state = optimizer.update(updates, state, params, **extra_args)
        return updates, narrowed(state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _narrow(x: Array, step: Array) -> Array:
    return rounded(x, step).astype(jnp.bfloat16) if x.dtype == jnp.float32 else x


def _widen(x: Array) -> Array:
    return x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x


def rounded(x: Array, step: Array) -> Array:
    """`x` in float32, rounded by chance to one of its two neighbors in bfloat16.

    Its derivative is that of `x`. What is not finite stays as it is.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    chance = (bits ^ step.astype(jnp.uint32) * jnp.uint32(_ODD[1])) * jnp.uint32(_ODD[0])
    up = bits + (chance >> 16)  # carries into the upper half in just the share of cases
    kept = jax.lax.bitcast_convert_type(up & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(x), x + jax.lax.stop_gradient(kept - x), x)
