"""The per-parameter MLP on factored second moments (`AdafacMLPLOpt`, `small_fc_lopt`).

References:
  Metz, Freeman, Harrison, Maheswaranathan, Sohl-Dickstein, Practical tradeoffs between
  memory, compute, and performance in learned optimizers, 2022, arXiv 2203.11860.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt import checks, features
from lopt.architecture import TIME_SCALES, Start, adafac_channels
from lopt.base import Array, LearnedOptimizer, PyTree
from lopt.features import FactoredMoment, FullMoment
from lopt.optimizers import network
from lopt.optimizers.pieces import Channels
from lopt.optimizers.stored import STATE_DTYPES, StateDtype, stored


class AdafacMlpState(NamedTuple):
    """Momenta and second moments of every tensor."""

    step: Array  # shape=[], int32
    momenta: PyTree  # shape=[M, *s] for each tensor
    second_moments: PyTree  # shape=[R, *s] for each tensor
    factored_moments: PyTree  # a FactoredMoment or FullMoment for each tensor


def adafac_mlp(
    *,
    hidden_sizes: Sequence[int] = (4, 4),
    momentum_decays: Sequence[float] = (0.9, 0.99, 0.999),
    rms_decays: Sequence[float] = (0.999,),
    factored_decays: Sequence[float] = (0.9, 0.99, 0.999),
    step_mult: float = 0.001,
    exp_mult: float = 0.001,
    eps: float = 1e-5,
    state_dtype: StateDtype = "float32",
    start: Start = "random",
) -> LearnedOptimizer:
    """An MLP that maps each element's statistics, full and factored, to its update.

    p ← p - λ · step_mult · a · exp(exp_mult · b), where (a, b) are the outputs of a
    relu network of `channels`, each divided by its RMS over the tensor, and of eleven
    features of the step counter; λ is the tensor's muP multiplier (1 without specs).
    The decays are learned, from these starting points.

    Args:
      hidden_sizes: widths of the hidden layers; (32, 32) in the work on muP.
      momentum_decays: decays of the momenta.
      rms_decays: decays of the second moments; one, or as many as momenta.
      factored_decays: decays of the factored second moments; one, or as many as
        momenta.
      step_mult: scale of the update.
      exp_mult: scale of the logarithm of the update's magnitude.
      eps: added to the mean square that a channel is normalized by.
      state_dtype: of accumulators between updates: "bfloat16" halves their memory.
      start: what theta is at first; see `architecture.STARTS`.

    Raises:
      BrokenRule: a size, a decay or a constant is out of range.
    """
    checks.check_sizes(hidden_sizes=hidden_sizes)
    checks.check_positive(step_mult=step_mult, eps=eps)
    checks.check_choices(STATE_DTYPES, state_dtype=state_dtype)
    checks.check_decays(
        momentum_decays=momentum_decays,
        rms_decays=rms_decays,
        factored_decays=factored_decays,
    )
    checks.check_counts(
        momentum_decays, rms_decays=rms_decays, factored_decays=factored_decays
    )
    decays = (momentum_decays, rms_decays, factored_decays)
    num_inputs = adafac_channels(*map(len, decays)) + len(TIME_SCALES)
    adam = 2 + len(momentum_decays) + len(rms_decays)  # the first m rsqrt(r)
    passed = network.passed(start, adam, momentum_decays)

    def init(key):
        return {
            "momentum_decays": jnp.zeros(len(momentum_decays)),
            "rms_decays": jnp.zeros(len(rms_decays)),
            "factored_decays": jnp.zeros(len(factored_decays)),
            "network": network.init_network(key, (num_inputs, *hidden_sizes, 2), passed),
        }

    def opt_fn(theta, *, specs=None, num_steps=None):
        del num_steps
        d_m = features.learned_decays(momentum_decays, theta["momentum_decays"])
        d_r = features.learned_decays(rms_decays, theta["rms_decays"])
        d_v = features.learned_decays(factored_decays, theta["factored_decays"])

        def init_fn(params):
            return AdafacMlpState(
                step=jnp.zeros([], jnp.int32),
                momenta=features.zeros(params, len(momentum_decays)),
                second_moments=features.zeros(params, len(rms_decays)),
                factored_moments=jax.tree.map(
                    lambda p: features.init_factored_moment(p, len(factored_decays)),
                    params,
                ),
            )

        def update_fn(updates, state, params=None, **extra_args):
            del extra_args
            checks.check_params(params)
            treedef = jax.tree.structure(params)
            g, p = (jax.tree.map(features.at_least_float32, x) for x in (updates, params))
            m = jax.tree.map(
                lambda g, m: features.update_momenta(m, g, d_m), g, state.momenta
            )
            r = jax.tree.map(
                lambda g, r: features.update_second_moments(r, g, d_r),
                g,
                state.second_moments,
            )
            v = jax.tree.map(
                lambda g, v: features.update_factored_moment(v, g, d_v),
                g,
                state.factored_moments,
            )
            changes = network.apply_network(
                theta["network"],
                treedef.flatten_up_to(jax.tree.map(channels, g, p, m, r, v)),
                features.tanh_time_features(state.step),
                eps,
                network.change(step_mult, exp_mult),
            )
            updates = network.updates(treedef.unflatten(changes), params, specs)
            step = jnp.asarray(optax.safe_increment(state.step))
            return updates, AdafacMlpState(step, m, r, v)

        optimizer = optax.GradientTransformationExtraArgs(init_fn, update_fn)
        return stored(optimizer, state_dtype, AdafacMlpState._fields[1:])

    return LearnedOptimizer(init, opt_fn)


def channels(
    g: Array, p: Array, m: Array, r: Array, v: FactoredMoment | FullMoment
) -> Channels:
    """The channels of one tensor, in the published order.

    g, p, m, r, m rsqrt(r), rsqrt(r), then the factored ones: g ρ κ, R, C, rsqrt(R),
    rsqrt(C), m ρ κ; where the tensor is not factored, V stands for both R and C.
    """
    own = g[None], p[None], m, r
    if isinstance(v, FullMoment):
        return Channels(_of_full, (*own, v.full))
    return Channels(_of_factored, (*own, *v, *features.reciprocal_root_factors(v)))


def _of_full(g: Array, p: Array, m: Array, r: Array, v: Array) -> list[Array]:
    root = jax.lax.rsqrt(v + 1e-8)
    preconditioned = g * features.reciprocal_root(FullMoment(v))
    moment = m * jax.lax.rsqrt(v + 1e-6)
    return [*_own(g, p, m, r), preconditioned, v, v, root, root, moment]


def _of_factored(g, p, m, r, row, col, rho, kappa) -> list[Array]:
    roots = [jax.lax.rsqrt(row + 1e-8), jax.lax.rsqrt(col + 1e-8)]
    own = _own(g, p, m, r)
    return [*own, g * rho * kappa, row, col, *roots, m * rho * kappa]


def _own(g: Array, p: Array, m: Array, r: Array) -> list[Array]:
    inverse = jax.lax.rsqrt(r + 1e-6)
    return [g, p, m, r, m * inverse, inverse]
