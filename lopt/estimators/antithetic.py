"""What the evolution strategies share: antithetic pairs of inner runs.

Pair i runs with θ + ε_i and θ − ε_i from the same initialization on the same data. With
L± the mean meta-loss of a truncation and σ the standard deviation of ε,

    g = 1/(2σ²N) Σ_i (L⁺_i − L⁻_i) c_i

where the estimators differ in ε_i and in the credit c_i. Both members of a pair have one
run length and restart together.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.base import (
    Array,
    Data,
    MetaGradient,
    MetaParams,
    PRNGKey,
    Unroll,
    UnrollState,
)

SIGNS = (1.0, -1.0)


class Truncation(NamedTuple):
    """What one truncation of all pairs gave."""

    losses: Array  # shape=[N, 2], meta-losses of the plus and minus runs
    diverged: Array  # shape=[N, 2], bool
    num_steps: Array  # shape=[], int32, inner steps taken
    runs: UnrollState  # leaves [N, 2, ...]


def check_options(num_pairs: int, sigma: float) -> None:
    """Raises `ValueError` where an option is out of its range."""
    if num_pairs < 1:
        raise ValueError(f"`estimator.num_pairs` must be at least 1, got {num_pairs}")
    if not sigma > 0:
        raise ValueError(f"`estimator.sigma` must be positive, got {sigma}")


def sample_noise(theta: MetaParams, key: PRNGKey, num: int, sigma: float) -> MetaParams:
    """ε ~ N(0, σ²), a tree of leaves [num, *shape]."""
    leaves, treedef = jax.tree.flatten(theta)
    # One draw for all leaves: each further one costs compile time.
    flat = sigma * jax.random.normal(key, (num, sum(leaf.size for leaf in leaves)))
    noise, used = [], 0
    for leaf in leaves:
        part = flat[:, used : used + leaf.size].reshape(num, *leaf.shape)
        noise.append(part.astype(leaf.dtype))
        used += leaf.size
    return jax.tree.unflatten(treedef, noise)


def no_noise(theta: MetaParams, num: int) -> MetaParams:
    """Zeros, leaves [num, *shape]."""
    return jax.tree.map(lambda t: jnp.zeros((num, *t.shape), t.dtype), theta)


def unstarted_runs(
    unroll: Unroll, theta: MetaParams, key: PRNGKey, data: Data, num_pairs: int
) -> UnrollState:
    """Runs of length 0, leaves [N, 2, ...]: finished, so that the next call starts them.

    Nothing is computed here, and so nothing is compiled.
    """
    num_steps = jnp.zeros((), jnp.int32)
    shapes = jax.eval_shape(unroll.init, theta, key, data, num_steps)
    return jax.tree.map(lambda x: jnp.zeros((num_pairs, 2, *x.shape), x.dtype), shapes)


def finished(runs: UnrollState) -> Array:
    """Which pairs are at the end of their run, bool [N]."""
    return runs.step[:, 0] >= runs.num_steps[:, 0]


def select(condition: Array, new, old):
    """Per pair, `new` where the condition [N] holds, else `old`; leaves [N, ...]."""

    def pick(a, b):
        return jnp.where(condition.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, new, old)


def advance_pairs(
    unroll: Unroll,
    theta: MetaParams,
    noise: MetaParams,
    runs: UnrollState,
    key: PRNGKey,
    data: Data,
    progress: Array,
) -> Truncation:
    """One truncation of every pair; finished ones start a new run first."""
    num_pairs = runs.step.shape[0]
    keys = jax.random.split(key, (num_pairs, 3))

    def one(noise, run, keys, sign):
        perturbed = jax.tree.map(lambda t, e: t + sign.astype(e.dtype) * e, theta, noise)
        run = started(unroll, perturbed, run, keys[:2], data, progress)
        return unroll.advance(perturbed, run, keys[2], data)

    # One axis of particles: two nested ones cost a third more to trace, and to run.
    signs = jnp.tile(jnp.asarray(SIGNS), num_pairs)
    particles = jax.tree.map(_flat, (_twice(noise), runs, _twice(keys)))
    reading, runs = jax.tree.map(_paired, jax.vmap(one)(*particles, signs))
    num_steps = jnp.asarray(len(SIGNS) * num_pairs * unroll.length, jnp.int32)
    return Truncation(reading.loss, reading.diverged, num_steps, runs)


def _twice(tree):
    """Leaves [N, ...] -> [N, 2, ...]."""
    return jax.tree.map(lambda x: jnp.stack([x, x], axis=1), tree)


def _flat(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])


def _paired(x: Array) -> Array:
    return x.reshape(-1, 2, *x.shape[1:])


def started(
    unroll: Unroll,
    theta: MetaParams,
    run: UnrollState,
    keys: PRNGKey,  # shape=[2], for the length and for the initialization
    data: Data,
    progress: Array,
) -> UnrollState:
    """The run, or a new one where it is finished.

    The very first run is cut short at a random truncation, which puts the particles out
    of step with one another; without it all would be young, or old, together. A cut run
    is a short run in every respect: it knows its length.
    """
    draw_key, cut_key = jax.random.split(keys[0])
    num_steps = unroll.draw_num_steps(draw_key, progress)
    longest = num_steps // unroll.length
    cut = 1 + (jax.random.uniform(cut_key) * longest).astype(jnp.int32)
    is_first = run.num_steps == 0
    num_steps = jnp.where(is_first, cut * unroll.length, num_steps)
    fresh = unroll.init(theta, keys[1], data, num_steps)
    over = run.step >= run.num_steps
    return jax.tree.map(lambda a, b: jnp.where(over, a, b), fresh, run)


def antithetic_gradient(
    truncation: Truncation, credit: MetaParams, sigma: float
) -> MetaGradient:
    """1/(2σ²N) Σ_i (L⁺_i − L⁻_i) c_i, credit leaves [N, ...]."""
    difference = truncation.losses[:, 0] - truncation.losses[:, 1]
    scale = difference / (2 * sigma**2 * difference.shape[0])
    return MetaGradient(
        grad=jax.tree.map(lambda c: jnp.tensordot(scale, c, axes=1), credit),
        loss=jnp.mean(truncation.losses),
        num_diverged=jnp.sum(truncation.diverged, dtype=jnp.int32),
        num_steps=truncation.num_steps,
    )
