"""Persistent evolution strategies."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.base import GradientEstimator, MetaParams, Unroll, UnrollState
from lopt.estimators.antithetic import (
    advance_pairs,
    antithetic_gradient,
    check_options,
    finished,
    no_noise,
    sample_noise,
    select,
    unstarted_runs,
)


class PESState(NamedTuple):
    """Pairs of runs and what perturbed them so far."""

    runs: UnrollState  # leaves [N, 2, ...]
    accumulator: MetaParams  # leaves [N, ...], ξ: sum of ε since the run's start


def pes(unroll: Unroll, *, num_pairs: int = 16, sigma: float = 0.05) -> GradientEstimator:
    """Fresh ε in every truncation, credit ξ: the sum of all ε since the run's start.

    Unbiased for the smoothed loss of the whole run; its variance grows with the number
    of truncations in a run.

    References:
      Vicol, Metz, Sohl-Dickstein, Unbiased gradient estimation in unrolled computation
      graphs with persistent evolution strategies, 2021, arXiv 2112.13835.
    """
    check_options(num_pairs, sigma)

    def init(theta, key, data):
        runs = unstarted_runs(unroll, theta, key, data, num_pairs)
        return PESState(runs, no_noise(theta, num_pairs))

    def estimate(theta, state, key, data, progress):
        noise_key, run_key = jax.random.split(key)
        noise = sample_noise(theta, noise_key, num_pairs, sigma)
        continued = jax.tree.map(jnp.add, state.accumulator, noise)
        accumulator = select(finished(state.runs), noise, continued)
        truncation = advance_pairs(
            unroll, theta, noise, state.runs, run_key, data, progress
        )
        grad = antithetic_gradient(truncation, accumulator, sigma)
        return grad, PESState(truncation.runs, accumulator)

    return GradientEstimator(init, estimate)
