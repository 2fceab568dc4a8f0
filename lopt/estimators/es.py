"""Truncated evolution strategies."""

import jax
import jax.numpy as jnp

from lopt.base import GradientEstimator, Unroll
from lopt.estimators.antithetic import (
    advance_pairs,
    antithetic_gradient,
    check_options,
    sample_noise,
    unstarted_runs,
)


def es(unroll: Unroll, *, num_pairs: int = 16, sigma: float = 0.05) -> GradientEstimator:
    """Fresh ε in every truncation, credit c = ε.

    Biased: a truncation is not charged with what its updates do to later ones.
    A pair with a diverged run restarts.

    References:
      Metz, Maheswaranathan, Nixon, Freeman, Sohl-Dickstein, Understanding and correcting
      pathologies in the training of learned optimizers, 2019, arXiv 1810.10180.
    """
    check_options(num_pairs, sigma)

    def init(theta, key, data):
        return unstarted_runs(unroll, theta, key, data, num_pairs)

    def estimate(theta, runs, key, data, progress):
        noise_key, run_key = jax.random.split(key)
        noise = sample_noise(theta, noise_key, num_pairs, sigma)
        truncation = advance_pairs(unroll, theta, noise, runs, run_key, data, progress)
        # A dead run tells nothing about a fresh ε: its pair starts anew.
        over = jnp.any(truncation.diverged, axis=1)[:, None]
        runs = truncation.runs
        runs = runs._replace(step=jnp.where(over, runs.num_steps, runs.step))
        return antithetic_gradient(truncation, noise, sigma), runs

    return GradientEstimator(init, estimate)
