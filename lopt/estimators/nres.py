"""Noise-reuse evolution strategies."""

from typing import NamedTuple

import jax

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


class NRESState(NamedTuple):
    """Pairs of runs and the one perturbation of each."""

    runs: UnrollState  # leaves [N, 2, ...]
    noise: MetaParams  # leaves [N, ...], ε


def nres(
    unroll: Unroll, *, num_pairs: int = 16, sigma: float = 0.05
) -> GradientEstimator:
    """One ε for a whole run, reused in every truncation, credit c = ε.

    Unbiased for the smoothed loss of the whole run, without an accumulator, and with a
    variance that does not grow with the number of truncations; needs pairs that are out
    of step with one another.

    References:
      Li, Harrison, Sohl-Dickstein, Smith, Metz, Variance-reduced gradient estimation via
      noise-reuse in online evolution strategies, 2023, arXiv 2304.12180.
      Vicol, Low-variance gradient estimation in unrolled computation graphs with
      ES-Single, 2023, arXiv 2304.11153.
    """
    check_options(num_pairs, sigma)

    def init(theta, key, data):
        runs = unstarted_runs(unroll, theta, key, data, num_pairs)
        return NRESState(runs, no_noise(theta, num_pairs))

    def estimate(theta, state, key, data, progress):
        noise_key, run_key = jax.random.split(key)
        fresh = sample_noise(theta, noise_key, num_pairs, sigma)
        noise = select(finished(state.runs), fresh, state.noise)
        truncation = advance_pairs(
            unroll, theta, noise, state.runs, run_key, data, progress
        )
        grad = antithetic_gradient(truncation, noise, sigma)
        return grad, NRESState(truncation.runs, noise)

    return GradientEstimator(init, estimate)
