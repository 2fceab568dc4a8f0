"""Evolution strategies on whole runs."""

from lopt import prng
from lopt.base import GradientEstimator, Unroll
from lopt.estimators.antithetic import antithetic_gradient
from lopt.estimators.noise import Gaussian, Sigma
from lopt.estimators.runs import check_count
from lopt.estimators.whole import numbered, whole_pairs


def full_es(
    unroll: Unroll,
    *,
    num_pairs: int = 16,
    sigma: Sigma = 0.05,
    sigma_end: Sigma | None = None,
) -> GradientEstimator:
    """Evolution strategies on whole runs: one ε a run, one call a run; unbiased.

    Credit c = ε/σ². Theta is updated once a run; memory does not grow with the run. All
    runs of a call have one length. A diverged run is charged with the worst loss to its
    end.

    Args:
      unroll: what is estimated on.
      num_pairs: N, antithetic pairs of runs.
      sigma: standard deviation of ε, as in `lopt.estimators.noise`.
      sigma_end: what it becomes at the end of meta-training; None: it stays.

    References:
      Salimans, Ho, Chen, Sidor, Sutskever, Evolution strategies as a scalable
      alternative to reinforcement learning, 2017, arXiv 1703.03864.
    """
    check_count("num_pairs", num_pairs)
    gaussian = Gaussian(sigma=sigma, sigma_end=sigma_end)

    def init(theta, key, data):
        del key, data
        gaussian.check(theta)
        return numbered(num_pairs)

    def estimate(theta, numbers, key, data, progress):
        length_key, noise_key, run_key = prng.split(key, 3)
        num_steps = unroll.draw_num_steps(length_key, progress)
        noise, score = gaussian.draw(theta, prng.fold_in(noise_key, numbers), progress)
        keys = prng.fold_in(run_key, numbers)
        readings = whole_pairs(unroll, theta, noise, keys, num_steps, data)
        return antithetic_gradient(readings, score, theta), numbers

    return GradientEstimator(init, estimate)
