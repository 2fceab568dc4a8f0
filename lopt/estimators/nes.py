"""Natural evolution strategies with rank-shaped fitness."""

import jax.numpy as jnp

from lopt import prng
from lopt.base import Array, GradientEstimator, Unroll
from lopt.config import BrokenRule
from lopt.estimators.antithetic import weighted_credit
from lopt.estimators.noise import Gaussian, Sigma
from lopt.estimators.whole import numbered, whole_pairs


def nes(
    unroll: Unroll,
    *,
    population: int = 32,
    sigma: Sigma = 0.05,
    sigma_end: Sigma | None = None,
) -> GradientEstimator:
    """Natural evolution strategies: whole runs, ranked; biased, but not by outliers.

    With λ members θ ± ε_i, utilities u of the ranks of their meta-losses, and σ fixed,

        g = −Σ_i (u⁺_i − u⁻_i) ε_i/σ²

    Only the order of the losses counts: the gradient's length says nothing of the
    loss's slope. All members have one run length, one initialization and the same data,
    so that ranks compare theta alone; equal losses share their ranks. A diverged run is
    charged with the worst loss to its end.

    Args:
      unroll: what is estimated on.
      population: λ, even.
      sigma: standard deviation of ε, as in `lopt.estimators.noise`.
      sigma_end: what it becomes at the end of meta-training; None: it stays.

    References:
      Wierstra, Schaul, Glasmachers, Sun, Peters, Schmidhuber, Natural evolution
      strategies, 2014, JMLR 15. Departs from it: σ is not adapted.
      Kristiansen et al., Narrowing the focus: learned optimizers for pretrained models,
      2024, arXiv 2408.09310 (L3RS).
    """
    if population < 2 or population % 2:
        raise BrokenRule("population", "be an even number, at least 2", population)
    gaussian = Gaussian(sigma=sigma, sigma_end=sigma_end)

    def init(theta, key, data):
        del key, data
        gaussian.check(theta)
        return numbered(population // 2)

    def estimate(theta, numbers, key, data, progress):
        length_key, noise_key, run_key = prng.split(key, 3)
        num_steps = unroll.draw_num_steps(length_key, progress)
        noise, score = gaussian.draw(theta, prng.fold_in(noise_key, numbers), progress)
        same = jnp.broadcast_to(run_key, numbers.shape)
        readings = whole_pairs(unroll, theta, noise, same, num_steps, data)
        shaped = utilities(readings.losses.reshape(-1)).reshape(-1, 2)
        weights = shaped[:, 1] - shaped[:, 0]
        return weighted_credit(weights, score, readings, theta), numbers

    return GradientEstimator(init, estimate)


def utilities(losses: Array) -> Array:
    """Of each loss [λ] its rank's: max(0, ln(λ/2 + 1) − ln k), k = 1 the lowest.

    Divided by their sum; equal losses get the mean over their ranks.
    """
    num = losses.shape[0]
    by_rank = jnp.log(num / 2 + 1) - jnp.log(jnp.arange(1, num + 1))
    by_rank = jnp.where(by_rank > 0, by_rank, 0.0)
    up_to = jnp.concatenate([jnp.zeros(1), jnp.cumsum(by_rank / jnp.sum(by_rank))])
    ordered = jnp.sort(losses)
    first, after = (jnp.searchsorted(ordered, losses, side=s) for s in ("left", "right"))
    return (up_to[after] - up_to[first]) / (after - first)
