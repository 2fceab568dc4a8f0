"""What the evolution strategies share: antithetic pairs of inner runs.

Pair i runs with θ + ε_i and θ − ε_i from the same initialization on the same data. With
L± the mean meta-loss of a truncation,

    g = 1/(2N) Σ_i (L⁺_i − L⁻_i) c_i

where the estimators differ in ε_i and in the credit c_i, a sum of scores ε/σ². Both
members of a pair have one run length and restart together.
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
from lopt.estimators.runs import started

SIGNS = (1.0, -1.0)


class PairReadings(NamedTuple):
    """What a truncation, or a whole run, said of all pairs."""

    losses: Array  # shape=[N, 2], meta-losses of the plus and minus runs
    diverged: Array  # shape=[N, 2], bool
    num_steps: Array  # shape=[], int32, inner steps taken


def perturbed(theta: MetaParams, noise: MetaParams, sign: Array) -> MetaParams:
    """θ ± ε."""
    return jax.tree.map(lambda t, e: t + sign.astype(e.dtype) * e, theta, noise)


def advance_pairs(
    unroll: Unroll,
    theta: MetaParams,
    noise: MetaParams,
    runs: UnrollState,
    key: PRNGKey,
    data: Data,
    progress: Array,
) -> tuple[PairReadings, UnrollState]:
    """One truncation of every pair, runs [N, 2, ...]; those that are over start anew."""
    num_pairs = runs.step.shape[0]
    keys = jax.random.split(key, (num_pairs, 3))

    def one(noise, run, keys, sign):
        weights = perturbed(theta, noise, sign)
        run = started(unroll, weights, run, keys[:2], data, progress)
        return unroll.advance(weights, run, keys[2], data)

    both_signs = jax.vmap(one, in_axes=(None, 0, None, 0))
    all_pairs = jax.vmap(both_signs, in_axes=(0, 0, 0, None))
    reading, runs = all_pairs(noise, runs, keys, jnp.asarray(SIGNS))
    num_steps = jnp.asarray(len(SIGNS) * num_pairs * unroll.length, jnp.int32)
    return PairReadings(reading.loss, reading.diverged, num_steps), runs


def antithetic_gradient(readings: PairReadings, credit: MetaParams) -> MetaGradient:
    """1/(2N) Σ_i (L⁺_i − L⁻_i) c_i, credit leaves [N, ...]."""
    difference = readings.losses[:, 0] - readings.losses[:, 1]
    return weighted_credit(difference / (2 * len(difference)), credit, readings)


def weighted_credit(
    weights: Array, credit: MetaParams, readings: PairReadings
) -> MetaGradient:
    """Σ_i weights_i c_i, weights [N] and credit leaves [N, ...]."""
    return MetaGradient(
        grad=jax.tree.map(lambda c: jnp.tensordot(weights, c, axes=1), credit),
        loss=jnp.mean(readings.losses),
        num_diverged=jnp.sum(readings.diverged, dtype=jnp.int32),
        num_steps=readings.num_steps,
    )
