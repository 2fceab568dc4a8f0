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
    PyTree,
    Unroll,
    UnrollState,
)
from lopt.estimators.noise import as_theta, as_vector
from lopt.estimators.runs import ParticleKeys, started

SIGNS = (1.0, -1.0)


class PairReadings(NamedTuple):
    """What a truncation, or a whole run, said of all pairs."""

    losses: Array  # shape=[N, 2], meta-losses of the plus and minus runs
    diverged: Array  # shape=[N, 2], bool
    num_steps: Array  # shape=[], int32, inner steps taken


def each_member(
    function: Callable[..., Any],
    theta: MetaParams,
    noise: Array,
    keys: PyTree,
    *runs: PyTree,
) -> Any:
    """`function(θ ± ε, keys, *runs)` of both members of every pair.

    Args:
      function: of one run.
      theta: meta-parameters.
      noise: ε [N, P].
      keys: leaves [N, ...]; both members get the same.
      runs: leaves [N, 2, ...].

    Returns:
      What the function returns, leaves [N, 2, ...].
    """

    center = as_vector(theta)

    def one(noise, keys, sign, *runs):
        return function(as_theta(center + sign * noise, theta), keys, *runs)

    # One axis of particles: two nested ones cost a third more to trace, and to run.
    signs = jnp.tile(jnp.asarray(SIGNS), len(noise))
    noise, keys = jax.tree.map(_twice, (noise, keys))
    noise, keys, runs = jax.tree.map(_flat, (noise, keys, runs))
    return jax.tree.map(_paired, jax.vmap(one)(noise, keys, signs, *runs))


def _twice(x: Array) -> Array:
    return jnp.stack([x, x], axis=1)


def _flat(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])


def _paired(x: Array) -> Array:
    return x.reshape(-1, 2, *x.shape[1:])


def advance_pairs(
    unroll: Unroll,
    theta: MetaParams,
    noise: Array,
    runs: UnrollState,
    keys: ParticleKeys,
    data: Data,
    progress: Array,
) -> tuple[PairReadings, UnrollState]:
    """One truncation of every pair; runs that are over start anew.

    Args:
      unroll: what is estimated on.
      theta: meta-parameters.
      noise: ε [N, P].
      runs: leaves [N, 2, ...].
      keys: [N]; both members of a pair get the same.
      data: the task's.
      progress: the share of outer steps that are done.
    """

    def truncation(weights, keys, run):
        run = started(unroll, weights, run, keys, data, progress)
        return unroll.advance(weights, run, keys.data, data)

    reading, runs = each_member(truncation, theta, noise, keys, runs)
    num_steps = jnp.asarray(runs.step.size * unroll.length, jnp.int32)
    return PairReadings(reading.loss, reading.diverged, num_steps), runs


def antithetic_gradient(
    readings: PairReadings, credit: Array, theta: MetaParams
) -> MetaGradient:
    """1/(2N) Σ_i (L⁺_i − L⁻_i) c_i, credit [N, P]."""
    difference = differences(readings.losses)
    return weighted_credit(difference / (2 * len(difference)), credit, readings, theta)


def differences(losses: Array) -> Array:
    """L⁺ − L⁻ of losses [N, 2], exactly zero where they are equal.

    Compiled into one multiply-add with what made the losses, a plain difference of equal
    ones would be a rounding error.
    """
    plus, minus = losses[:, 0], losses[:, 1]
    return jnp.where(plus == minus, 0.0, plus - minus)


def weighted_credit(
    weights: Array, credit: Array, readings: PairReadings, theta: MetaParams
) -> MetaGradient:
    """Σ_i weights_i c_i, weights [N] and credit [N, P]; in the form of theta."""
    return MetaGradient(
        grad=as_theta(weights @ credit, theta),
        loss=jnp.mean(readings.losses),
        num_diverged=jnp.sum(readings.diverged, dtype=jnp.int32),
        num_steps=readings.num_steps,
    )
