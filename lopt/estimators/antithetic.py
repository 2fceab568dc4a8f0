"""What the evolution strategies share: antithetic pairs of inner runs.

Pair i runs with θ + ε_i and θ − ε_i from the same initialization on the same data. With
L± the mean meta-loss of a truncation,

    g = 1/(2N) Σ_i (L⁺_i − L⁻_i) c_i

where the estimators differ in ε_i and in the credit c_i, a sum of scores ε/σ². Both
members of a pair have one run length and restart together.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lopt.base import (
    Array,
    Data,
    MetaGradient,
    MetaParams,
    PRNGKey,
    PyTree,
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


def each_member(
    function: Callable[..., Any],
    theta: MetaParams,
    noise: MetaParams,
    keys: PRNGKey,
    *runs: PyTree,
) -> Any:
    """`function(θ ± ε, keys, *runs)` of both members of every pair.

    Args:
      function: of one run.
      theta: meta-parameters.
      noise: ε, leaves [N, ...].
      keys: [N, ...]; both members get the same.
      runs: leaves [N, 2, ...].

    Returns:
      What the function returns, leaves [N, 2, ...].
    """

    def one(noise, keys, sign, *runs):
        weights = jax.tree.map(lambda t, e: t + sign.astype(e.dtype) * e, theta, noise)
        return function(weights, keys, *runs)

    # One axis of particles: two nested ones cost a third more to trace, and to run.
    num_pairs = keys.shape[0]
    signs = jnp.tile(jnp.asarray(SIGNS), num_pairs)
    noise, keys, runs = jax.tree.map(_flat, (_twice(noise), _twice(keys), runs))
    return jax.tree.map(_paired, jax.vmap(one)(noise, keys, signs, *runs))


def _twice(tree):
    """Leaves [N, ...] -> [N, 2, ...]."""
    return jax.tree.map(lambda x: jnp.stack([x, x], axis=1), tree)


def _flat(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])


def _paired(x: Array) -> Array:
    return x.reshape(-1, 2, *x.shape[1:])


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

    def truncation(weights, keys, run):
        run = started(unroll, weights, run, keys[:2], data, progress)
        return unroll.advance(weights, run, keys[2], data)

    keys = jax.random.split(key, (num_pairs, 3))
    reading, runs = each_member(truncation, theta, noise, keys, runs)
    num_steps = jnp.asarray(len(SIGNS) * num_pairs * unroll.length, jnp.int32)
    return PairReadings(reading.loss, reading.diverged, num_steps), runs


def antithetic_gradient(readings: PairReadings, credit: MetaParams) -> MetaGradient:
    """1/(2N) Σ_i (L⁺_i − L⁻_i) c_i, credit leaves [N, ...]."""
    difference = differences(readings.losses)
    return weighted_credit(difference / (2 * len(difference)), credit, readings)


def differences(losses: Array) -> Array:
    """L⁺ − L⁻ of losses [N, 2], exactly zero where they are equal.

    Compiled into one multiply-add with what made the losses, a plain difference of equal
    ones would be a rounding error.
    """
    plus, minus = losses[:, 0], losses[:, 1]
    return jnp.where(plus == minus, 0.0, plus - minus)


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
