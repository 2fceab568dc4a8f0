"""The arithmetic of `layerwise`: momenta, their blend, and the mixture of directions.

Everything works on stacks [G, *shape] of tensors and on numbers for each tensor [L].
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from lopt import mup
from lopt.base import Array
from lopt.bases import Base
from lopt.numerics import root
from lopt.optimizers import pieces
from lopt.optimizers.inputs import EPS
from lopt.optimizers.pieces import Channels
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


Parts = tuple[Array, Array, Array, Array]
"""What a stack's u is blended of, in the order of `blended`'s arguments."""


def parts(
    pack: Packing, shares: Array, grads: Stacks, momenta: Stacks, weights: Array
) -> list[Parts]:
    """Of every stack, for shares α [L, 1 + M] and weights w [M]."""
    gamma, alpha = pack.spread(shares[:, 0]), pack.spread(shares[:, 1:] / weights[None])
    return list(zip(gamma, alpha, grads, momenta, strict=True))


def blended(gamma: Array, alpha: Array, g: Array, m: Array) -> Array:
    """u = γ g + Σ_i α_i m_i: γ [G, 1, ...], α [G, M, 1, ...], m [G, M, *shape]."""
    return gamma * g + jnp.sum(alpha * m, axis=1)


def with_same_rms(
    directions: Sequence[Stacks],
    table: Sequence[Base],
    states: Sequence[Any],
    step: Array,
    pack: Packing,
    stacks: Sequence[Parts],
) -> Sequence[Stacks]:
    """The bases' directions, or what has the same RMS.

    On a CPU, what is measured and then used is written to memory. So an entrywise
    direction of a large tensor is made once more, piece by piece, and measured; its RMS,
    repeated, stands for it.

    Args:
      directions: of each base, as they are.
      table: the bases.
      states: theirs, with this gradient.
      step: the step.
      pack: of the tensors.
      stacks: what u is blended of.
    """

    def rms(base: Base, state: Stacks, i: int) -> Array:
        gamma, alpha, g, momenta = stacks[i]
        m = [momenta[:, j] for j in range(momenta.shape[1])]

        def direction(g: Array, *rest: Array) -> list[Array]:
            u = blended(gamma, alpha, g, jnp.stack(rest[: len(m)], axis=1))
            return list(base.direction((u,), rest[len(m) :], step, pack))

        channels = Channels(direction, (g, *m, *state[i : i + 1]))
        return root(pieces.mean_squares(channels))

    return [
        tuple(
            jnp.broadcast_to(rms(base, state, i), d.shape)
            if base.kind == "entrywise" and len(d) == 1 and pieces.are_used(d.size)
            else d
            for i, d in enumerate(direction)
        )
        for base, state, direction in zip(table, states, directions, strict=True)
    ]


def update(
    pack: Packing,
    decision: Policy,
    table: Sequence[Base],
    directions: Sequence[Stacks],
    measured: Sequence[Stacks],
    params: Stacks,
) -> Stacks:
    """−λ (Σ_k μ_k s_k d_k + ω φ).

    s is muP's multiplier, over the RMS of what is `measured` in place of the direction d
    if it is entrywise: one that is orthogonalized has unit RMS by its construction.
    """
    decay = pack.spread(-decision.step_size * decision.weight_decay)
    sums = [_one(w) * _one(p) for w, p in zip(decay, params, strict=True)]
    for k, (base, direction) in enumerate(zip(table, directions, strict=True)):
        multipliers = [mup.update_multiplier(spec, base.kind) for spec in pack.specs]
        scale = jnp.asarray(multipliers, jnp.float32)
        if base.kind == "entrywise":
            scale = scale / (pack.rms(measured[k]) + EPS)
        factor = pack.spread(-decision.step_size * decision.mixture[:, k] * scale)
        sums = [x + _one(f * d) for x, f, d in zip(sums, factor, direction, strict=True)]
    return tuple(x.reshape(p.shape) for x, p in zip(sums, params, strict=True))


def _one(stack: Array) -> Array:
    """A stack of one as that tensor: past a reshape of a parameter, XLA does not see that
    what becomes of it can take its place in memory."""
    return stack[0] if len(stack) == 1 else stack
