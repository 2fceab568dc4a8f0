"""What the backpropagating estimators share: one gradient a run, and their mean.

A run whose loss or gradient is not finite is left out of the mean, and counted: the
bound that stands for its loss says nothing about theta.
"""

import jax
import jax.numpy as jnp
import optax

from lopt.base import (
    Array,
    Data,
    MetaGradient,
    MetaParams,
    Reading,
    Rematerialize,
    Unroll,
    UnrollState,
)
from lopt.config import BrokenRule
from lopt.estimators.runs import ParticleKeys, select, started


def check_clip_norm(clip_norm: float) -> None:
    """Raises `BrokenRule` where a norm is negative."""
    if not clip_norm >= 0:
        raise BrokenRule("clip_norm", "not be negative", clip_norm)


def truncation_gradient(
    unroll: Unroll,
    theta: MetaParams,
    run: UnrollState,
    keys: ParticleKeys,
    data: Data,
    progress: Array,
    rematerialize: Rematerialize,
) -> tuple[MetaParams, Reading, UnrollState]:
    """The gradient of one truncation's loss in theta, the run as it was taken as given.

    A run that is over is started anew first, under the same derivative.
    """

    def loss(theta):
        begun = started(unroll, theta, run, keys, data, progress)
        reading, after = unroll.advance(
            theta, begun, keys.data, data, rematerialize=rematerialize
        )
        return reading.loss, (reading, after)

    grad, (reading, after) = jax.grad(loss, has_aux=True)(theta)
    return grad, reading, after


def usable(grads: MetaParams, diverged: Array) -> Array:
    """Which runs' gradients count, bool [N]: finite ones, of finite losses."""
    finite = [
        jnp.all(jnp.isfinite(g), axis=tuple(range(1, g.ndim)))
        for g in jax.tree.leaves(grads)
    ]
    return ~diverged & jnp.all(jnp.stack(finite), axis=0)


def clipped(grads: MetaParams, kept: Array, clip_norm: float) -> MetaParams:
    """Gradients [N, ...] of norm `clip_norm` at most (0: any); zeros where not kept."""
    grads = select(kept, grads, jax.tree.map(jnp.zeros_like, grads))
    return jax.vmap(lambda g: _clip(g, clip_norm))(grads) if clip_norm else grads


def _clip(grad: MetaParams, clip_norm: float) -> MetaParams:
    """One run's gradient; by its largest entry first, for its squares may overflow."""
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(g)) for g in jax.tree.leaves(grad)]))
    largest = jnp.where(largest > 0, largest, 1.0)
    unit = jax.tree.map(lambda g: g / largest, grad)
    scale = jnp.minimum(largest, clip_norm / optax.tree.norm(unit))
    return jax.tree.map(lambda u, g: (u * scale).astype(g.dtype), unit, grad)


def mean_gradient(
    grads: MetaParams, losses: Array, kept: Array, num_steps: Array
) -> MetaGradient:
    """The mean of the kept runs' gradients [N, ...], zeros elsewhere; zero if none is."""
    num_kept = jnp.maximum(jnp.sum(kept), 1)
    return MetaGradient(
        grad=jax.tree.map(lambda g: jnp.sum(g, axis=0) / num_kept, grads),
        loss=jnp.mean(losses),
        num_diverged=jnp.sum(~kept, dtype=jnp.int32),
        num_steps=num_steps,
    )
