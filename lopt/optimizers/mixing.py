"""The arithmetic of `layerwise`: momenta, their blend, and the mixture of directions.

Everything works on stacks [G, *shape] of tensors and on numbers for each tensor [L].
"""

from collections.abc import Sequence

import jax.numpy as jnp

from lopt import mup
from lopt.base import Array
from lopt.bases import Base
from lopt.optimizers.inputs import EPS
from lopt.optimizers.policy import Policy
from lopt.packing import Packing, Stacks


def start_momenta(params: Stacks, num_momenta: int) -> Stacks:
    """Zeros, [G, M, *shape], on the devices as the parameters are."""
    return tuple(
        jnp.broadcast_to(
            jnp.expand_dims(jnp.zeros_like(p), 1), (len(p), num_momenta, *p.shape[1:])
        )
        for p in params
    )


def update_momenta(
    decays: Array, grads: Stacks, momenta: Stacks, step: Array
) -> tuple[Stacks, Stacks]:
    """m ← β m + (1 − β) g for every β, and the unbiased m̂ = m / (1 − β^(t+1))."""
    raw, unbiased = [], []
    for m, g in zip(momenta, grads, strict=True):
        beta = decays.reshape((1, -1) + (1,) * (g.ndim - 1))
        m = beta * m + (1 - beta) * g[:, None]
        raw.append(m)
        unbiased.append(m / (1 - beta ** (step + 1.0)))
    return tuple(raw), tuple(unbiased)


def blend(pack: Packing, shares: Array, grads: Stacks, momenta: Stacks) -> Stacks:
    """u = α_0 g + Σ_i α_i m̂_i, for shares [L, 1 + M]."""
    gamma, alpha = pack.spread(shares[:, 0]), pack.spread(shares[:, 1:])
    return tuple(
        c * g + jnp.sum(a * m, axis=1)
        for c, g, a, m in zip(gamma, grads, alpha, momenta, strict=True)
    )


def scales(pack: Packing, base: Base, direction: Stacks) -> Array:
    """What a direction is multiplied by: muP's multiplier, over its RMS if entrywise, [L]

    A direction that is orthogonalized has unit RMS by its construction.
    """
    multipliers = [mup.update_multiplier(spec, base.kind) for spec in pack.specs]
    scales = jnp.asarray(multipliers, jnp.float32)
    if base.kind == "entrywise":
        scales = scales / (pack.rms(direction) + EPS)
    return scales


def update(
    pack: Packing,
    decision: Policy,
    directions: Sequence[Stacks],
    scales: Sequence[Array],
    params: Stacks,
) -> Stacks:
    """−λ (Σ_k μ_k s_k d_k + ω φ), for scales s."""
    decay = pack.spread(-decision.step_size * decision.weight_decay)
    total = tuple(w * p for w, p in zip(decay, params, strict=True))
    for k, (direction, scale) in enumerate(zip(directions, scales, strict=True)):
        factor = pack.spread(-decision.step_size * decision.mixture[:, k] * scale)
        total = tuple(x + c * d for x, c, d in zip(total, factor, direction, strict=True))
    return total
