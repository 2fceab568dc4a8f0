"""The per-parameter MLP on momenta and time features (`MLPLOpt`).

References:
  Metz, Maheswaranathan, Nixon, Freeman, Sohl-Dickstein, Understanding and correcting
  pathologies in the training of learned optimizers, 2019, arXiv 1810.10180.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt import checks, features
from lopt.architecture import TIME_SCALES, Start
from lopt.base import Array, LearnedOptimizer, PyTree
from lopt.optimizers import network
from lopt.optimizers.pieces import Channels
from lopt.optimizers.stored import STATE_DTYPES, StateDtype, stored


class MlpState(NamedTuple):
    """Momenta of every tensor."""

    step: Array  # shape=[], int32
    momenta: PyTree  # shape=[D, *s] for each tensor


def mlp(
    *,
    hidden_sizes: Sequence[int] = (32, 32),
    decays: Sequence[float] = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999),
    step_mult: float = 0.001,
    exp_mult: float = 0.001,
    eps: float = 1e-5,
    state_dtype: StateDtype = "float32",
    start: Start = "random",
) -> LearnedOptimizer:
    """An MLP that maps each element's gradient, value and momenta to its update.

    p ← p - λ · step_mult · a · exp(exp_mult · b), where (a, b) are the outputs of a
    relu network of `channels`, each divided by its RMS over the tensor, and of eleven
    features of the step counter; λ is the tensor's muP multiplier (1 without specs).

    Args:
      hidden_sizes: widths of the hidden layers.
      decays: decays of the momenta.
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
    checks.check_decays(decays=decays)
    num_inputs = 2 + len(decays) + len(TIME_SCALES)
    passed = network.passed(start, 2, decays)

    def init(key):
        sizes = (num_inputs, *hidden_sizes, 2)
        return {"network": network.init_network(key, sizes, passed)}

    def opt_fn(theta, *, specs=None, num_steps=None):
        del num_steps
        decay_array = jnp.asarray(decays, jnp.float32)

        def init_fn(params):
            return MlpState(
                step=jnp.zeros([], jnp.int32),
                momenta=features.zeros(params, len(decays)),
            )

        def update_fn(updates, state, params=None, **extra_args):
            del extra_args
            checks.check_params(params)
            treedef = jax.tree.structure(params)
            g, p = (jax.tree.map(features.at_least_float32, x) for x in (updates, params))
            m = jax.tree.map(
                lambda g, m: features.update_momenta(m, g, decay_array),
                g,
                state.momenta,
            )
            changes = network.apply_network(
                theta["network"],
                treedef.flatten_up_to(jax.tree.map(channels, g, p, m)),
                features.tanh_time_features(state.step),
                eps,
                network.change(step_mult, exp_mult),
            )
            updates = network.updates(treedef.unflatten(changes), params, specs)
            return updates, MlpState(jnp.asarray(optax.safe_increment(state.step)), m)

        optimizer = optax.GradientTransformationExtraArgs(init_fn, update_fn)
        return stored(optimizer, state_dtype, ("momenta",))

    return LearnedOptimizer(init, opt_fn)


def channels(g: Array, p: Array, m: Array) -> Channels:
    """The channels of one tensor: g, p, momenta."""
    return Channels(lambda *seen: list(seen), (g[None], p[None], m))
