"""The thirty channels that the networks of VeLO, Celo and Celo2 read of every element.

References:
  Metz et al., VeLO: training versatile learned optimizers by scaling up, 2022, arXiv
  2211.09760, whose choice of statistics the later two kept.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt import features
from lopt.base import Array
from lopt.features import FactoredMoment, FullMoment

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


def updated_moments(moments: Moments, g: Array, decays: Decays) -> Moments:
    """The moments with another gradient."""
    d_m, d_r, d_v = decays
    return Moments(
        features.update_momenta(moments.momenta, g, d_m),
        features.update_second_moments(moments.second_moments, g, d_r),
        features.update_factored_moment(moments.factored, g, d_v),
    )


def channels(
    g: Array, p: Array, moments: Moments, *, eps: float = 1e-8, repeats: bool = False
) -> list[Array]:
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
    inverse = jax.lax.rsqrt(r + eps)
    own = [g[None], jnp.clip(g, -0.1, 0.1)[None], p[None], m, r, m * inverse, inverse]
    if isinstance(v, FactoredMoment):
        rho, kappa = features.reciprocal_root_factors(v)
        own += [g[None] * rho * kappa, g[None] * inverse]
        roots = [jax.lax.rsqrt(v.row + 1e-8), jax.lax.rsqrt(v.col + 1e-8)]
        return [*own, v.row, v.col, *roots, m * rho * kappa]
    own += [g[None] * features.reciprocal_root(v), g[None] * inverse]
    if repeats:
        root = jax.lax.rsqrt(v.full + 1e-8)
        return [*own, v.full, v.full, root, root, m * jax.lax.rsqrt(v.full)]
    num_factored = len(v.full)
    num_absent = 4 * num_factored + max(len(m), num_factored)
    return [*own, jnp.zeros((num_absent, *[1] * g.ndim))]
