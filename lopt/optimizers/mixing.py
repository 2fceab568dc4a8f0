"""The arithmetic of `layerwise`: momenta, their blend, and the mixture of directions.

Everything works on stacks [G, *shape] of tensors and on numbers for each tensor [L].
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from lopt import mup
from lopt.base import Array
from lopt.bases import Base
from lopt.numerics import root
from lopt.optimizers import pieces
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


def update_momenta(decays: Array, grads: Stacks, momenta: Stacks) -> Stacks:
    """m ← β m + (1 − β) g for every β."""
    raw = []
    for m, g in zip(momenta, grads, strict=True):
        beta = decays.reshape((1, -1) + (1,) * (g.ndim - 1))
        raw.append(beta * m + (1 - beta) * g[:, None])
    return tuple(raw)


def weights(decays: Array, step: Array) -> Array:
    """1 − β^(t+1) for every β, [M]: what the weights of gradients in a momentum sum to.

    A momentum over that is unbiased. Numbers are divided by it, not momenta: what is
    divided and then read twice would be written to memory.
    """
    return 1 - decays ** (step + 1.0)


class Blend(NamedTuple):
    """u = α_0 g + Σ_i α_i m_i / w_i of a stack, as what it is made of."""

    gradient_share: Array  # α_0, shape=[G, 1, ...]
    shares: Array  # α_i / w_i, shape=[G, M, 1, ...]
    grads: Array  # shape=[G, *shape]
    momenta: Array  # shape=[G, M, *shape]

    def momentum(self) -> Array:
        """u [G, *shape]."""
        mixed = jnp.sum(self.shares * self.momenta, axis=1)
        return self.gradient_share * self.grads + mixed


def blend(
    pack: Packing, shares: Array, grads: Stacks, momenta: Stacks, weights: Array
) -> list[Blend]:
    """Of each stack, for shares α [L, 1 + M] and weights w [M]."""
    gamma, alpha = pack.spread(shares[:, 0]), pack.spread(shares[:, 1:] / weights[None])
    return [Blend(*of) for of in zip(gamma, alpha, grads, momenta, strict=True)]


def rms(
    pack: Packing,
    base: Base,
    blends: Sequence[Blend],
    state: Sequence[Array],
    step: Array,
    direction: Stacks,
) -> Array:
    """RMS of each tensor's entrywise direction, [L].

    A large one is made once more, piece by piece, to be measured: what is measured and
    then used is written to memory.
    """

    def mean_square(i: int, d: Array) -> Array:
        if len(d) > 1 or not pieces.are_used(d.size):
            return jnp.sum(d * d, axis=range(1, d.ndim)) / max(d[0].size, 1)

        def of(g: Array, m: Array, *state: Array) -> Array:
            u = blends[i]._replace(grads=g, momenta=m[None]).momentum()
            return base.direction((u,), state, step, pack)[0][0]

        _, _, g, m = blends[i]
        return pieces.mean_square(of, (g, m[0], *state[i : i + 1]), d.shape[1:])[None]

    squares = [mean_square(i, d) for i, d in enumerate(direction)]
    return root(jnp.concatenate(squares))


def update(
    pack: Packing,
    decision: Policy,
    table: Sequence[Base],
    directions: Sequence[Stacks],
    sizes: Sequence[Array | float],
    params: Stacks,
) -> Stacks:
    """−λ (Σ_k μ_k s_k d_k / r_k + ω φ).

    Of directions d, their sizes r [L] and muP's multipliers s. The size of one that is
    entrywise is its RMS; one that is orthogonalized has unit RMS by its construction.
    """
    decay = pack.spread(-decision.step_size * decision.weight_decay)
    sums = [_one(w) * _one(p) for w, p in zip(decay, params, strict=True)]
    for k, (base, direction) in enumerate(zip(table, directions, strict=True)):
        multipliers = [mup.update_multiplier(spec, base.kind) for spec in pack.specs]
        scale = jnp.asarray(multipliers, jnp.float32) / (sizes[k] + EPS)
        factor = pack.spread(-decision.step_size * decision.mixture[:, k] * scale)
        sums = [x + _one(f * d) for x, f, d in zip(sums, factor, direction, strict=True)]
    return tuple(x.reshape(p.shape) for x, p in zip(sums, params, strict=True))


def _one(stack: Array) -> Array:
    """A stack of one as that tensor: past a reshape of a parameter, XLA does not see that
    what becomes of it can take its place in memory."""
    return stack[0] if len(stack) == 1 else stack
