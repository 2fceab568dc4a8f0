"""The thirty channels that the networks of VeLO, Celo and Celo2 read of every element.

References:
  Metz et al., VeLO: training versatile learned optimizers by scaling up, 2022, arXiv
  2211.09760, whose choice of statistics the later two kept.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt import features
from lopt.base import Array
from lopt.features import FactoredMoment, FullMoment
from lopt.optimizers.pieces import Channels

Decays = tuple[Array, ...]
"""[M], [R], [F]: of momenta, second moments and factored ones."""


class Moments(NamedTuple):
    """Running means of one tensor."""

    momenta: Array  # shape=[M, *s]
    second_moments: Array  # shape=[R, *s]
    factored: FactoredMoment | FullMoment


def init_moments(p: Array, decays: Decays) -> Moments:
    """Zeros, for a tensor of this shape."""
    num_momenta, num_second, num_factored = map(len, decays)
    return Moments(
        features.zeros(p, num_momenta),
        features.zeros(p, num_second),
        features.init_factored_moment(p, num_factored),
    )


def updated_moments(
    moments: Moments, g: Array, decays: Decays, *, clip: float = math.inf
) -> Moments:
    """The moments with another gradient, clipped to ±clip."""
    d_m, d_r, d_v = decays
    clipped = jnp.clip(g, -clip, clip) if clip < math.inf else g
    return Moments(
        features.update_momenta(moments.momenta, clipped, d_m),
        features.update_second_moments(moments.second_moments, clipped, d_r),
        features.update_factored_moment(moments.factored, g, d_v, clip=clip),
    )


def first_adam(num_momenta: int, num_second: int) -> int:
    """The place of the first m rsqrt(r) among the channels."""
    return 3 + num_momenta + num_second


def channels(
    g: Array, p: Array, moments: Moments, *, eps: float = 1e-8, repeats: bool = False
) -> Channels:
    """The channels of one tensor, in the published order.

    g, g clipped to ±0.1, p, m, r, m rsqrt(r), rsqrt(r), g preconditioned by each factored
    moment and by r; then, of a tensor that is factored, R, C, rsqrt(R), rsqrt(C), m ρ κ.

    Args:
      g: the gradient [*s].
      p: the parameters [*s].
      moments: with this gradient.
      eps: added to r inside of roots.
      repeats: whether V stands for both R and C where nothing is factored; zeros do
        otherwise.
    """
    m, r, v = moments
    own = g[None], p[None], m, r
    if isinstance(v, FactoredMoment):
        factors = features.reciprocal_root_factors(v)
        return Channels(partial(_of_factored, eps), (*own, *v, *factors))
    return Channels(partial(_of_full, eps, repeats), (*own, v.full))


def _of_factored(eps, g, p, m, r, row, col, rho, kappa) -> list[Array]:
    first, last = _own(eps, g, p, m, r)
    roots = [jax.lax.rsqrt(row + 1e-8), jax.lax.rsqrt(col + 1e-8)]
    preconditioned = g * rho * kappa
    return [*first, preconditioned, last, row, col, *roots, m * rho * kappa]


def _of_full(eps, repeats, g, p, m, r, v) -> list[Array]:
    first, last = _own(eps, g, p, m, r)
    own = [*first, g * features.reciprocal_root(FullMoment(v)), last]
    if repeats:
        root = jax.lax.rsqrt(v + 1e-8)
        return [*own, v, v, root, root, m * jax.lax.rsqrt(v)]
    num_absent = 4 * len(v) + max(len(m), len(v))
    return [*own, jnp.zeros((num_absent, *[1] * (g.ndim - 1)))]


def _own(eps: float, g: Array, p: Array, m: Array, r: Array) -> tuple[list[Array], Array]:
    """The first of them, and g preconditioned by r."""
    inverse = jax.lax.rsqrt(r + eps)
    return [g, jnp.clip(g, -0.1, 0.1), p, m, r, m * inverse, inverse], g * inverse
