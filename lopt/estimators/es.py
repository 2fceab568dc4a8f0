"""Truncated evolution strategies."""

import jax

from lopt.base import GradientEstimator, Unroll
from lopt.estimators.antithetic import (
    SIGNS,
    advance_pairs,
    antithetic_gradient,
    check_options,
    sample_noise,
    unstarted_runs,
)


def es(unroll: Unroll, *, num_pairs: int = 16, sigma: float = 0.05) -> GradientEstimator:
    """Fresh ε in every truncation, credit c = ε.

    Biased: a truncation is not charged with what its updates do to later ones.

    References:
      Metz, Maheswaranathan, Nixon, Freeman, Sohl-Dickstein, Understanding and correcting
      pathologies in the training of learned optimizers, 2019, arXiv 1810.10180.
    """
    check_options(num_pairs, sigma)

    def init(theta, key, data):
        return unstarted_runs(unroll, theta, key, data, num_pairs)

    def estimate(theta, runs, key, data):
        noise_key, run_key = jax.random.split(key)
        noise = sample_noise(theta, noise_key, num_pairs, sigma)
        truncation = advance_pairs(unroll, theta, noise, runs, run_key, data)
        return antithetic_gradient(truncation, noise, sigma), truncation.runs

    return GradientEstimator(init, estimate, len(SIGNS) * num_pairs * unroll.length)
