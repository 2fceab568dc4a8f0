"""Truncated backpropagation through time."""

import jax
import jax.numpy as jnp

from lopt.base import GradientEstimator, Rematerialize, Unroll
from lopt.estimators.backprop import (
    check_clip_norm,
    clipped,
    mean_gradient,
    truncation_gradient,
    usable,
)
from lopt.estimators.runs import check_count, ended, particle_keys, unstarted


def tbptt(
    unroll: Unroll,
    *,
    num_runs: int = 16,
    clip_norm: float = 1.0,
    rematerialize: Rematerialize = "steps",
) -> GradientEstimator:
    """Truncated backpropagation: the exact gradient of each truncation; biased.

    g = 1/N Σ_i ∂L_i/∂θ, L_i the loss of the truncation that run i takes in this call, its
    state before it a constant. A truncation is not charged with what its updates do to
    later ones. Its gradient explodes where the inner run is chaotic: it is clipped, run
    by run. A run whose loss or gradient is not finite is left out and restarts.

    Args:
      unroll: what is estimated on.
      num_runs: N, inner runs.
      clip_norm: largest norm of one run's gradient; 0: no clipping.
      rematerialize: what is computed anew on the way back instead of kept, as
        `lopt.base.Rematerialize` says.

    References:
      Werbos, Backpropagation through time: what it does and how to do it, 1990,
      Proceedings of the IEEE 78 (10).
    """
    check_count("num_runs", num_runs)
    check_clip_norm(clip_norm)

    def init(theta, key, data):
        return unstarted(unroll, theta, key, data, num_runs)

    def estimate(theta, runs, key, data, progress):
        keys = particle_keys(key, num_runs)

        def gradient(run, keys):
            return truncation_gradient(
                unroll, theta, run, keys, data, progress, rematerialize
            )

        grads, readings, runs = jax.vmap(gradient)(runs, keys)
        kept = usable(grads, readings.diverged)
        num_steps = jnp.asarray(num_runs * unroll.length, jnp.int32)
        grads = clipped(grads, kept, clip_norm)
        result = mean_gradient(grads, readings.loss, kept, num_steps)
        return result, ended(runs, ~kept)

    return GradientEstimator(init, estimate)
