"""Persistent evolution strategies."""

from lopt.base import GradientEstimator, Unroll
from lopt.estimators.gpes import gpes
from lopt.estimators.noise import Sigma


def pes(
    unroll: Unroll,
    *,
    num_pairs: int = 16,
    sigma: Sigma = 0.05,
    sigma_end: Sigma | None = None,
) -> GradientEstimator:
    """Persistent evolution strategies: `gpes` with a fresh ε in every truncation.

    Credit ξ = Σ ε/σ² over all truncations since the run's start. Unbiased for the
    smoothed loss of the whole run; its variance grows with the number of truncations in a
    run. Options as in `gpes`.

    References:
      Vicol, Metz, Sohl-Dickstein, Unbiased gradient estimation in unrolled computation
      graphs with persistent evolution strategies, 2021, arXiv 2112.13835.
    """
    return gpes(unroll, num_pairs=num_pairs, sigma=sigma, sigma_end=sigma_end, period=1)
