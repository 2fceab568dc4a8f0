"""Forward gradient: the derivative along a random direction, carried along the run."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.base import Array, GradientEstimator, Unroll, UnrollState
from lopt.estimators.backprop import clipped, mean_gradient, usable
from lopt.estimators.noise import Gaussian, as_theta, size
from lopt.estimators.runs import (
    check_count,
    ended,
    over,
    particle_keys,
    select,
    started,
    unstarted,
)
from lopt.estimators.tangents import inexact, rebuild


class ForwardState(NamedTuple):
    """Runs, their direction, and how they change along it."""

    runs: UnrollState  # leaves [N, ...]
    direction: Array  # shape=[N, P], v
    tangents: tuple[Array, ...]  # of the inexact leaves of `runs`: d/dh at θ + h v


def forward_gradient(unroll: Unroll, *, num_runs: int = 32) -> GradientEstimator:
    """Forward gradient: the slope along one random direction a run; unbiased.

    v ~ N(0, I), drawn when a run starts; g = (dL/dv) v, by forward-mode differentiation:
    memory does not grow with the run. The state's derivative outlives the truncation, so
    that later ones are charged with what earlier updates did to them. The variance grows
    with the number of meta-parameters, and a meta-parameter that does nothing gets zero
    only on average. A run whose loss or slope is not finite is left out and restarts.

    Args:
      unroll: what is estimated on.
      num_runs: N, inner runs.

    References:
      Silver, Goyal, Danihelka, Hessel, van Hasselt, Learning by directional gradient
      descent, 2021, ICLR 2022.
      Baydin, Pearlmutter, Syme, Wood, Torr, Gradients without backpropagation, 2022,
      arXiv 2202.08587.
    """
    check_count("num_runs", num_runs)
    gaussian = Gaussian(sigma=1.0)

    def init(theta, key, data):
        runs = unstarted(unroll, theta, key, data, num_runs)
        return ForwardState(runs, jnp.zeros((num_runs, size(theta))), inexact(runs))

    def estimate(theta, state, key, data, progress):
        keys = particle_keys(key, num_runs)
        fresh, _ = gaussian.draw(theta, keys.noise, progress)
        direction = select(over(state.runs), fresh, state.direction)

        def slope(run, tangents, direction, keys):
            def truncation(theta, leaves):
                begun = rebuild(run)(leaves)
                begun = started(unroll, theta, begun, keys, data, progress)
                reading, after = unroll.advance(theta, begun, keys.data, data)
                return (reading.loss, inexact(after)), (reading, after)

            at = (theta, inexact(run))
            along = (as_theta(direction, theta), tangents)
            _, (slope, tangents), (reading, after) = jax.jvp(
                truncation, at, along, has_aux=True
            )
            return slope, tangents, reading, after

        slopes, tangents, readings, runs = jax.vmap(slope)(
            state.runs, state.tangents, direction, keys
        )
        grads = as_theta(slopes[:, None] * direction, theta)
        kept = usable(grads, readings.diverged)
        num_steps = jnp.asarray(num_runs * unroll.length, jnp.int32)
        result = mean_gradient(clipped(grads, kept, 0.0), readings.loss, kept, num_steps)
        return result, ForwardState(ended(runs, ~kept), direction, tangents)

    return GradientEstimator(init, estimate)
