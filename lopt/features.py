"""Gradient statistics and the inputs of learned optimizers: every formula once.

Layout. Everything here is *feature-major*: a statistic with D decays of a tensor of
shape `s` is an array [D, *s], and what is constant along an axis keeps that axis with
size 1. So every array of a tensor broadcasts against every other, a slice along one
axis is a slice of each, and no array has a short minor axis (3 or 28 of them make poor
use of vector registers and cache lines).

Statistics are kept and features are computed in float32 (float64 for float64 tensors).
No accumulator is bias-corrected, and each is updated before it is used as a feature,
as in all the published architectures.

References:
  Metz, Freeman, Harrison, Maheswaranathan, Sohl-Dickstein, Practical tradeoffs between
  memory, compute, and performance in learned optimizers, 2022, arXiv 2203.11860.
  Shazeer, Stern, Adafactor: adaptive learning rates with sublinear memory cost, 2018,
  arXiv 1804.04235: the factored second moment.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lopt.architecture import TIME_SCALES, factored_axes
from lopt.base import Array, PyTree


def at_least_float32(x: Array) -> Array:
    """`x` in the precision of the statistics: float32, or float64 where `x` has it."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def zeros(params: PyTree, num: int) -> PyTree:
    """Zero statistics [num, *s] for every tensor, in their precision.

    As all that is kept of a tensor, they lie on the devices as it does.
    """
    return jax.tree.map(lambda p: _repeated(_zeros_like(p), num), params)


def _zeros_like(p: Array) -> Array:
    return jnp.zeros_like(p, at_least_float32(p).dtype)


def _repeated(x: Array, num: int) -> Array:
    """[num, *s]"""
    return jnp.broadcast_to(jnp.expand_dims(x, 0), (num, *x.shape))


def along(values: Array, like: Array) -> Array:
    """`values` [D] shaped [D, 1, ..., 1] to broadcast against `like` [D, *s]."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def learned_decays(initial: Sequence[float], offsets: Array) -> Array:
    """Decays d = 1 - (1 - β) exp(10 δ) for initial decays β [D] and offsets δ [D]."""
    return 1.0 - (1.0 - jnp.asarray(initial, offsets.dtype)) * jnp.exp(10.0 * offsets)


def update_momenta(m: Array, g: Array, decays: Array) -> Array:
    """m ← d m + (1 - d) g for m [D, *s], g [*s] and decays d [D], not clipped."""
    d = along(decays, m)
    return d * m + (1.0 - d) * g[None]


def update_second_moments(r: Array, g: Array, decays: Array) -> Array:
    """r ← d r + (1 - d) g² for r [D, *s], g [*s], decays d [D] clipped to [0, 1]."""
    return update_momenta(r, g * g, jnp.clip(decays, 0.0, 1.0))


def rms_scale(x: Array, eps: float, axes: tuple[int, ...] | None = None) -> Array:
    """1/√(ε + mean(x²)) for every feature channel: what normalizes it to an RMS of one.

    Args:
      x: channels [c, *s], broadcast or not: repeating elements leaves a mean unchanged.
      eps: ε; an all-zero channel is scaled by 1/√ε and stays zero.
      axes: axes of `x` to average over; all but the first where None.

    Returns:
      Scales with the rank of `x`, size 1 along the averaged axes.
    """
    axes = tuple(range(1, x.ndim)) if axes is None else axes
    return jax.lax.rsqrt(eps + jnp.mean(x * x, axis=axes, keepdims=True))


def tanh_time_features(step: ArrayLike) -> Array:
    """tanh(t / T - 1) for the eleven time scales T: [11], from the step counter t."""
    t = jnp.asarray(step, jnp.float32)
    return jnp.tanh(t / jnp.asarray(TIME_SCALES, jnp.float32) - 1.0)


def log_abs(x: Array) -> Array:
    """clip(ln(1e-8 + |x|), -5, 5): a statistic of any size as a network input."""
    return jnp.clip(jnp.log(1e-8 + jnp.abs(x)), -5.0, 5.0)


class FactoredMoment(NamedTuple):
    """The second moment of a tensor with two axes or more: means over two of them."""

    row: Array  # shape=[D, *s with 1 at axis d0]
    col: Array  # shape=[D, *s with 1 at axis d1]


class FullMoment(NamedTuple):
    """The second moment of a vector or a scalar, which is not factored."""

    full: Array  # shape=[D, *s]


def init_factored_moment(p: Array, num: int) -> FactoredMoment | FullMoment:
    """Zero statistics for this tensor with `num` decays."""
    zeros = _zeros_like(p)
    axes = factored_axes(p.shape)
    if axes is None:
        return FullMoment(_repeated(zeros, num))
    row, col = (zeros.sum(axis, keepdims=True) for axis in reversed(axes))
    return FactoredMoment(_repeated(row, num), _repeated(col, num))


def update_factored_moment(
    v: FactoredMoment | FullMoment, g: Array, decays: Array, *, clip: float = math.inf
) -> FactoredMoment | FullMoment:
    """Moves R and C towards the means of s = min(|g|, clip)² + 1e-30 over axes d0 and d1.

    R ← d R + (1 - d) mean_{d0}(s), C ← d C + (1 - d) mean_{d1}(s), d clipped to [0, 1];
    where the tensor is not factored, V ← d V + (1 - d) s.
    """
    decays = jnp.clip(decays, 0.0, 1.0)
    if isinstance(v, FullMoment):
        squares = jnp.square(jnp.clip(g, -clip, clip)) + 1e-30
        return FullMoment(update_momenta(v.full, squares, decays))
    # On a CPU, a sum of squares is made without these in memory, unless something else is
    # made of them: so either sum has its own, and 1e-30 is added later.
    d1, d0 = _axes(g)
    for_row, for_col = jnp.abs(g * jnp.abs(g)), jnp.maximum(g, -g) ** 2
    if clip < math.inf:
        for_row, for_col = (jnp.minimum(x, clip**2) for x in (for_row, for_col))
    row = jnp.mean(for_row, d0, keepdims=True) + 1e-30
    col = jnp.mean(for_col, d1, keepdims=True) + 1e-30
    return FactoredMoment(
        update_momenta(v.row, row, decays), update_momenta(v.col, col, decays)
    )


def reciprocal_root_factors(v: FactoredMoment) -> tuple[Array, Array]:
    """The factors ρ, κ of 1/√(second moment), with the shapes of `v.row` and `v.col`.

    ρ = rsqrt(max(R / (mean_{d1}(R) + 1e-9), 1e-9)), κ = rsqrt(max(C, 1e-9)). The two
    are not symmetric: only the row factor is relative to its mean.
    """
    d1, _ = _axes(jax.eval_shape(lambda v: (v.row * v.col)[0], v))
    mean = v.row.mean(d1 + 1, keepdims=True)
    rho = jax.lax.rsqrt(jnp.maximum(v.row / (mean + 1e-9), 1e-9))
    return rho, jax.lax.rsqrt(jnp.maximum(v.col, 1e-9))


def reciprocal_root(v: FullMoment) -> Array:
    """rsqrt(max(V + 1e-9, 1e-9)), the counterpart of ρ κ where nothing is factored."""
    return jax.lax.rsqrt(jnp.maximum(v.full + 1e-9, 1e-9))


def _axes(x) -> tuple[int, int]:
    axes = factored_axes(x.shape)
    if axes is None:
        raise ValueError(f"a tensor of shape {tuple(x.shape)} is not factored")
    return axes


def size(shape: Sequence[int]) -> int:
    """Number of elements."""
    return math.prod(shape)
