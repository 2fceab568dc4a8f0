"""Learned optimizers that see gradients through an optax transformation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from lopt import checks
from lopt.architecture import Start
from lopt.base import LearnedOptimizer
from lopt.optimizers.adafac_mlp import adafac_mlp


def preprocessed(
    lopt: LearnedOptimizer, *transforms: optax.GradientTransformation
) -> LearnedOptimizer:
    """`lopt` behind these transformations of the gradient, first to last."""

    def opt_fn(theta, *, specs=None, num_steps=None):
        inner = lopt.opt_fn(theta, specs=specs, num_steps=num_steps)
        return optax.chain(*transforms, inner)

    return LearnedOptimizer(lopt.init, opt_fn)


def finite_gradients() -> optax.GradientTransformation:
    """NaN becomes 0, ±∞ the largest finite number of its sign."""
    return optax.stateless(lambda g, _: jax.tree.map(jnp.nan_to_num, g))


def mup_adafac(
    *,
    hidden_sizes: Sequence[int] = (32, 32),
    momentum_decays: Sequence[float] = (0.9, 0.99, 0.999),
    rms_decays: Sequence[float] = (0.999,),
    factored_decays: Sequence[float] = (0.9, 0.99, 0.999),
    step_mult: float = 0.01,
    exp_mult: float = 0.001,
    clip_norm: float = 0.0,
    start: Start = "random",
) -> LearnedOptimizer:
    """`adafac_mlp` as μLO publishes it: gradients made finite, optionally clipped.

    The muP multipliers come with `specs`, as for every optimizer. The published order
    is kept: clipping comes first, so that a NaN then makes *all* gradients zero.

    Args:
      hidden_sizes: as in `adafac_mlp`, like all that follow but `clip_norm`.
      momentum_decays: decays of the momenta.
      rms_decays: decays of the second moments.
      factored_decays: decays of the factored second moments.
      step_mult: scale of the update.
      exp_mult: scale of the logarithm of the update's magnitude.
      clip_norm: gradients are scaled to this norm over all tensors where theirs is
        larger; 0: never.
      start: as in `adafac_mlp`.

    Raises:
      BrokenRule: an option is out of range.

    References:
      Thérien, Joseph, Knyazev, Oyallon, Rish, Belilovsky, μLO: compute-efficient
      meta-generalization of learned optimizers, 2024, arXiv 2406.00153.
    """
    checks.check_not_negative(clip_norm=clip_norm)
    clipping = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    return preprocessed(
        adafac_mlp(
            hidden_sizes=hidden_sizes,
            momentum_decays=momentum_decays,
            rms_decays=rms_decays,
            factored_decays=factored_decays,
            step_mult=step_mult,
            exp_mult=exp_mult,
            start=start,
        ),
        *clipping,
        finite_gradients(),
    )
