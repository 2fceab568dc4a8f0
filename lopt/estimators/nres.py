"""Noise-reuse evolution strategies."""

from lopt.base import GradientEstimator, Unroll
from lopt.estimators.gpes import gpes
from lopt.estimators.noise import Sigma


def nres(
    unroll: Unroll,
    *,
    num_pairs: int = 16,
    sigma: Sigma = 0.05,
    sigma_end: Sigma | None = None,
) -> GradientEstimator:
    """Noise-reuse evolution strategies: `gpes` with one ε for a whole run.

    Credit c = ε/σ². Unbiased for the smoothed loss of the whole run, with a variance that
    does not grow with the number of truncations; needs pairs that are out of step with
    one another. Options as in `gpes`.

    References:
      Li, Harrison, Sohl-Dickstein, Smith, Metz, Variance-reduced gradient estimation via
      noise-reuse in online evolution strategies, 2023, arXiv 2304.12180.
      Vicol, Low-variance gradient estimation in unrolled computation graphs with
      ES-Single, 2023, arXiv 2304.11153.
    """
    return gpes(
        unroll, num_pairs=num_pairs, sigma=sigma, sigma_end=sigma_end, period=None
    )
