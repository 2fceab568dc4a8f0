"""Generalized persistent evolution strategies: PES, NRES and what lies between."""

from typing import NamedTuple

import jax.numpy as jnp

from lopt.base import Array, GradientEstimator, Unroll, UnrollState
from lopt.estimators.antithetic import advance_pairs, antithetic_gradient
from lopt.estimators.noise import Gaussian, Sigma, size
from lopt.estimators.runs import check_count, over, particle_keys, select, unstarted


class GPESState(NamedTuple):
    """Pairs of runs, what perturbs them now, and what has perturbed them so far."""

    runs: UnrollState  # leaves [N, 2, ...]
    noise: Array  # shape=[N, P], ε
    credit: Array  # shape=[N, P], ξ: sum of the scores of every ε of the run


def gpes(
    unroll: Unroll,
    *,
    num_pairs: int = 16,
    sigma: Sigma = 0.05,
    sigma_end: Sigma | None = None,
    period: int | None = 1,
) -> GradientEstimator:
    """A fresh ε every `period` truncations of a run, credited with all since its start.

    Credit c = ξ = Σ ε/σ² over every ε that the run has had. Unbiased for the smoothed
    loss of the whole run. The longer the period, the lower the variance: `pes` is its one
    end (1), `nres` the other (the whole run). Needs pairs that are out of step with one
    another.

    Args:
      unroll: what is estimated on.
      num_pairs: N, antithetic pairs of runs.
      sigma: standard deviation of ε, as in `lopt.estimators.noise`.
      sigma_end: what it becomes at the end of meta-training; None: it stays.
      period: truncations that one ε serves; None: the whole run.

    References:
      Li, Harrison, Sohl-Dickstein, Smith, Metz, Variance-reduced gradient estimation via
      noise-reuse in online evolution strategies, 2023, arXiv 2304.12180 (GPES_K).
    """
    check_count("num_pairs", num_pairs)
    if period is not None:
        check_count("period", period)
    gaussian = Gaussian(sigma=sigma, sigma_end=sigma_end)

    def init(theta, key, data):
        gaussian.check(theta)
        runs = unstarted(unroll, theta, key, data, num_pairs, 2)
        nothing = jnp.zeros((num_pairs, size(theta)))
        return GPESState(runs, nothing, nothing)

    def estimate(theta, state, key, data, progress):
        keys = particle_keys(key, num_pairs)
        fresh, score = gaussian.draw(theta, keys.noise, progress)
        is_new = over(state.runs)[:, 0]
        is_due = is_new
        if period is not None:
            is_due |= state.runs.step[:, 0] % (period * unroll.length) == 0
        noise = select(is_due, fresh, state.noise)
        added = select(is_due, state.credit + score, state.credit)
        credit = select(is_new, score, added)
        readings, runs = advance_pairs(
            unroll, theta, noise, state.runs, keys, data, progress
        )
        result = antithetic_gradient(readings, credit, theta)
        return result, GPESState(runs, noise, credit)

    return GradientEstimator(init, estimate)
