"""Celo: an update rule first, a schedule for it afterwards; meta-trained in two phases.

References:
  Moudgil, Knyazev, Lajoie, Belilovsky, Celo: training versatile learned optimizers on a
  compute diet, 2025, arXiv 2501.12670.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lopt import checks
from lopt.architecture import NUM_COURSE, Start
from lopt.base import Array, LearnedOptimizer, MetaParams
from lopt.optimizers import network, recurrent
from lopt.optimizers.channels import Moments
from lopt.optimizers.velo import Controls, mixture_optimizer


def celo(
    *,
    phase: int = 2,
    hidden_size: int = 64,
    num_networks: int = 1,
    hidden_sizes: Sequence[int] = (4, 4),
    step_mult: float = 0.001,
    exp_mult: float = 0.001,
    start: Start = "random",
) -> LearnedOptimizer:
    """A network of elements, and an LSTM of the run that says how far to go.

    p ← p - λ · s · step_mult · a · exp(exp_mult · b) · √(mean(p²) + 1e-9); s is 1 in
    phase 1, and 0.1 exp(.) of what the LSTM says in phase 2, which goes on from the theta
    of phase 1 (`--from`). Phase 1 trains the network of the elements alone, and phase 2
    the rest: `estimator.sigma={default=0, network=0.01}`, `{default=0.01, network=0}`.

    Args:
      phase: 1 or 2.
      hidden_size: H of the LSTM.
      num_networks: networks that are mixed.
      hidden_sizes: widths of their hidden layers.
      step_mult: scale of the update.
      exp_mult: scale of the logarithm of the update's magnitude.
      start: what theta is at first; see `architecture.STARTS`. With momentum, s is
        about 1.

    Raises:
      BrokenRule: a size or a constant is out of range.
    """

    checks.check_choices((1, 2), phase=phase)

    def controls(theta: MetaParams, h: Array) -> Controls:
        mixture = jax.nn.softmax(recurrent.linear(theta["controls"], h)) / num_networks
        steps = 0.1 * jnp.exp(recurrent.linear(theta["step_size"], h)[:, 0])
        return Controls(mixture, steps if phase == 2 else jnp.ones_like(steps))

    def settled(theta: MetaParams) -> MetaParams:
        steps = recurrent.settled(theta["step_size"], network.QUIET, math.log(10.0))
        return theta | {"step_size": steps}

    return mixture_optimizer(
        run_alone,
        controls,
        settled,
        num_inputs=NUM_COURSE,
        hidden_size=hidden_size,
        num_networks=num_networks,
        hidden_sizes=hidden_sizes,
        step_mult=step_mult,
        exp_mult=exp_mult,
        start=start,
    )


def run_alone(run: Array, params: Sequence[Array], moments: Sequence[Moments]) -> Array:
    """Every tensor sees the same."""
    del moments
    return jnp.broadcast_to(run, (len(params), len(run)))
