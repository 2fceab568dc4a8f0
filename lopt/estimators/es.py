"""Truncated evolution strategies."""

import jax.numpy as jnp

from lopt.base import GradientEstimator, Unroll
from lopt.estimators.antithetic import advance_pairs, antithetic_gradient
from lopt.estimators.noise import Gaussian, Sigma
from lopt.estimators.runs import check_count, ended, particle_keys, unstarted


def es(
    unroll: Unroll,
    *,
    num_pairs: int = 16,
    sigma: Sigma = 0.05,
    sigma_end: Sigma | None = None,
) -> GradientEstimator:
    """Truncated evolution strategies: a fresh ε in every truncation; biased.

    Credit c = ε/σ². A truncation is not charged with what its updates do to later ones.
    A pair with a diverged run restarts.

    Args:
      unroll: what is estimated on.
      num_pairs: N, antithetic pairs of runs.
      sigma: standard deviation of ε, as in `lopt.estimators.noise`.
      sigma_end: what it becomes at the end of meta-training; None: it stays.

    References:
      Metz, Maheswaranathan, Nixon, Freeman, Sohl-Dickstein, Understanding and correcting
      pathologies in the training of learned optimizers, 2019, arXiv 1810.10180.
    """
    check_count("num_pairs", num_pairs)
    gaussian = Gaussian(sigma=sigma, sigma_end=sigma_end)

    def init(theta, key, data):
        gaussian.check(theta)
        return unstarted(unroll, theta, key, data, num_pairs, 2)

    def estimate(theta, runs, key, data, progress):
        keys = particle_keys(key, num_pairs)
        noise, score = gaussian.draw(theta, keys.noise, progress)
        readings, runs = advance_pairs(unroll, theta, noise, runs, keys, data, progress)
        # A dead run tells nothing about a fresh ε: its pair starts anew.
        dead = jnp.any(readings.diverged, axis=1)
        return antithetic_gradient(readings, score, theta), ended(runs, dead)

    return GradientEstimator(init, estimate)
