"""A backpropagated and an ES gradient, each where it is the less noisy one."""

import jax
import jax.numpy as jnp

from lopt.base import Array, GradientEstimator, MetaGradient, Rematerialize, Unroll
from lopt.estimators.antithetic import differences, each_member
from lopt.estimators.backprop import (
    check_clip_norm,
    clipped,
    truncation_gradient,
    usable,
)
from lopt.estimators.noise import Gaussian, Sigma, as_theta
from lopt.estimators.runs import check_count, ended, particle_keys, unstarted


def mixed(
    unroll: Unroll,
    *,
    num_pairs: int = 8,
    sigma: Sigma = 0.05,
    sigma_end: Sigma | None = None,
    clip_norm: float = 1.0,
    rematerialize: Rematerialize = "steps",
) -> GradientEstimator:
    """Backpropagation and ES, mixed by inverse variance; truncated, biased.

    Each pair runs one truncation with θ ± ε, and gives two estimates of the gradient of
    the smoothed loss: the mean of both members' backpropagated gradients, clipped, and
    ½(L⁺ − L⁻) ε/σ². Over the pairs each has a mean g and, entry by entry, an empirical
    variance v; the result is (g_bp/v_bp + g_es/v_es) / (1/v_bp + 1/v_es): ES where the
    gradient explodes, backpropagation elsewhere. A pair with a member whose loss or
    gradient is not finite counts for ES alone, and restarts. The weights come from the
    pairs that they weigh: with few pairs that is a bias of its own.

    Args:
      unroll: what is estimated on.
      num_pairs: N, antithetic pairs of runs, at least 2.
      sigma: standard deviation of ε, as in `lopt.estimators.noise`.
      sigma_end: what it becomes at the end of meta-training; None: it stays.
      clip_norm: largest norm of one pair's backpropagated gradient; 0: no clipping.
      rematerialize: as in `tbptt`.

    References:
      Metz, Maheswaranathan, Nixon, Freeman, Sohl-Dickstein, Understanding and correcting
      pathologies in the training of learned optimizers, 2019, arXiv 1810.10180, § 4.
    """
    check_count("num_pairs", num_pairs, least=2)
    check_clip_norm(clip_norm)
    gaussian = Gaussian(sigma=sigma, sigma_end=sigma_end)

    def init(theta, key, data):
        gaussian.check(theta)
        return unstarted(unroll, theta, key, data, num_pairs, 2)

    def estimate(theta, runs, key, data, progress):
        keys = particle_keys(key, num_pairs)
        noise, score = gaussian.draw(theta, keys.noise, progress)

        def member(weights, keys, run):
            return truncation_gradient(
                unroll, weights, run, keys, data, progress, rematerialize
            )

        grads, readings, runs = each_member(member, theta, noise, keys, runs)
        kept = usable(grads, jnp.any(readings.diverged, axis=1))
        backprop = jax.tree.map(lambda g: jnp.mean(g, axis=1), grads)
        backprop = clipped(backprop, kept, clip_norm)
        half = 0.5 * differences(readings.loss)
        es = as_theta(half[:, None] * score, theta)
        result = MetaGradient(
            grad=jax.tree.map(lambda b, e: mixture(b, e, kept), backprop, es),
            loss=jnp.mean(readings.loss),
            num_diverged=2 * jnp.sum(~kept, dtype=jnp.int32),
            num_steps=jnp.asarray(2 * num_pairs * unroll.length, jnp.int32),
        )
        return result, ended(runs, ~kept)

    return GradientEstimator(init, estimate)


def mixture(backprop: Array, es: Array, kept: Array) -> Array:
    """The mean of two estimates [N, ...], weighted by inverse variance.

    Args:
      backprop: zero where not kept.
      es: all of them count.
      kept: bool [N], which backpropagated ones count; of fewer than two there is no
        variance, and ES stands alone.
    """
    everyone = jnp.ones_like(kept)
    mean_bp, var_bp = _mean_and_variance(backprop, kept)
    mean_es, var_es = _mean_and_variance(es, everyone)
    total = var_bp + var_es
    share = jnp.where(total > 0, var_es / jnp.where(total > 0, total, 1.0), 0.5)
    share = jnp.where(jnp.sum(kept) > 1, share, 0.0)
    return share * mean_bp + (1 - share) * mean_es


def _mean_and_variance(values: Array, kept: Array) -> tuple[Array, Array]:
    """Of the kept ones of [N, ...]: their mean, and the variance of that mean."""
    num = jnp.sum(kept)
    counts = kept.reshape((-1,) + (1,) * (values.ndim - 1))
    mean = jnp.sum(values, axis=0, where=counts) / jnp.maximum(num, 1)
    squares = jnp.sum((values - mean[None]) ** 2, axis=0, where=counts)
    return mean, squares / jnp.maximum(num - 1, 1) / jnp.maximum(num, 1)
