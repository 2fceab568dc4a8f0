"""Adam whose hyperparameters an LSTM moves, tensor by tensor (`NNAdam`).

References:
  The learned optimizer of that name in google/learned_optimization, 2022; there is no
  paper of its own.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt import checks, features, mup, prng
from lopt.base import Array, LearnedOptimizer, MetaParams, PyTree
from lopt.features import log_abs
from lopt.optimizers import recurrent
from lopt.optimizers.recurrent import LstmState

NAMES = ("lr", "beta1", "beta2", "epsilon")
"""The hyperparameters, in the order of the LSTM's outputs."""

_NUM_INPUTS = 19
_MAX_GRADIENT = 1000.0


class NNAdamState(NamedTuple):
    """Moments of every tensor, and the hyperparameters that it has arrived at."""

    step: Array  # shape=[], int32
    momenta: PyTree  # shape=[*s] for each tensor
    second_moments: PyTree  # shape=[*s] for each tensor
    raw: dict[str, Array]  # shape=[T] for each of NAMES, before the map to its range
    lstm: LstmState  # shape=[T, H]


def nn_adam(
    *,
    hidden_size: int = 32,
    learning_rate: float = 0.001,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    output_scale: float = 0.01,
    decay_strength: float = 0.0,
) -> LearnedOptimizer:
    """Adam with per-tensor hyperparameters that an LSTM moves.

    p ← p - lr (1 + ε) / (ε + √(r + 1e-10)) m with the tensor's current hyperparameters,
    m and r not bias-corrected, gradients clipped to ±1000. Then the LSTM, whose output
    is h, reads the tensor's statistics and moves the raw hyperparameters ρ (`constrain`
    says what they stand for) for the next step:

    ρ ← ρ + output_scale (h w + b), then ρ ← ρ - decay_strength (ρ - ρ₀).

    Args:
      hidden_size: of the LSTM.
      learning_rate: starting value of lr, as b1, b2, eps are of β₁, β₂, ε.
      b1: decay of m.
      b2: decay of r.
      eps: ε.
      output_scale: scale of the moves.
      decay_strength: share of the way back to the starting value in every step.

    Raises:
      BrokenRule: a size, a decay or a constant is out of range.
    """
    checks.check_sizes(hidden_size=(hidden_size,))
    checks.check_positive(learning_rate=learning_rate, eps=eps)
    checks.check_decays(b1=b1, b2=b2)
    start = {
        "lr": 0.1 * math.log(learning_rate),
        "beta1": 0.1 * math.log(1.0 - b1),
        "beta2": 0.1 * math.log(1.0 - b2),
        "epsilon": 0.1 * math.log(eps),
    }

    def init(key):
        lstm_key, controls_key = prng.split(key, 2)
        return {
            "initial": {name: jnp.float32(value) for name, value in start.items()},
            "lstm": recurrent.init_lstm(lstm_key, _NUM_INPUTS, hidden_size),
            "controls": recurrent.init_linear(controls_key, hidden_size, len(NAMES)),
        }

    def opt_fn(theta, *, specs=None, num_steps=None):
        del num_steps

        def init_fn(params):
            zeros = jax.tree.map(
                lambda p: jnp.zeros_like(features.at_least_float32(p)), params
            )
            num_tensors = len(jax.tree.leaves(params))
            return NNAdamState(
                step=jnp.zeros([], jnp.int32),
                momenta=zeros,
                second_moments=zeros,
                raw={n: jnp.repeat(theta["initial"][n], num_tensors) for n in NAMES},
                lstm=recurrent.start_lstm(theta["lstm"], num_tensors),
            )

        def update_fn(updates, state, params=None, **extra_args):
            del extra_args
            checks.check_params(params)
            leaves, treedef = jax.tree.flatten(params)
            scales = jax.tree.leaves(mup.update_multipliers(specs, "entrywise", params))
            now = constrain(state.raw)
            grads = treedef.flatten_up_to(updates)
            tensors, updates = [], []
            for i, (p, g, m, r) in enumerate(
                zip(
                    leaves,
                    grads,
                    treedef.flatten_up_to(state.momenta),
                    treedef.flatten_up_to(state.second_moments),
                    strict=True,
                )
            ):
                g = features.at_least_float32(g)
                g = jnp.clip(g, -_MAX_GRADIENT, _MAX_GRADIENT)
                beta1, beta2, eps = (now[n][i] for n in NAMES[1:])
                m = beta1 * m + (1.0 - beta1) * g
                r = beta2 * r + (1.0 - beta2) * g * g
                scale = now["lr"][i] * (1.0 + eps) / (eps + jnp.sqrt(r + 1e-10))
                updates.append((-scales[i] * scale * m).astype(p.dtype))
                tensors.append((features.at_least_float32(p), g, m, r))
            raw, lstm_state = _move(theta, tensors, state, output_scale, decay_strength)
            return treedef.unflatten(updates), NNAdamState(
                step=jnp.asarray(optax.safe_increment(state.step)),
                momenta=treedef.unflatten([m for _, _, m, _ in tensors]),
                second_moments=treedef.unflatten([r for *_, r in tensors]),
                raw=raw,
                lstm=lstm_state,
            )

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, opt_fn)


def constrain(raw: dict[str, Array]) -> dict[str, Array]:
    """The hyperparameters that raw values stand for, each within its range."""
    return {
        "lr": jnp.clip(jnp.exp(10.0 * raw["lr"]), 1e-8, 1e3),
        "beta1": 1.0 - jnp.exp(jnp.clip(10.0 * raw["beta1"], -10.0, 0.0)),
        "beta2": 1.0 - jnp.exp(jnp.clip(10.0 * raw["beta2"], -10.0, 0.0)),
        "epsilon": jnp.clip(jnp.exp(10.0 * raw["epsilon"]), 1e-11, 1e4),
    }


def unconstrain(values: dict[str, Array]) -> dict[str, Array]:
    """The inverse of `constrain`; 1 - β is rounded as the published optimizer does."""
    return {
        "lr": 0.1 * jnp.log(values["lr"]),
        "beta1": 0.1 * jnp.log(1.0 - values["beta1"]),
        "beta2": 0.1 * jnp.log(1.0 - values["beta2"]),
        "epsilon": 0.1 * jnp.log(values["epsilon"]),
    }


def lstm_inputs(
    tensors: list[tuple[Array, Array, Array, Array]], raw: dict[str, Array]
) -> Array:
    """What the LSTM sees of every tensor: [T, 19].

    Args:
      tensors: for every tensor p, g (clipped), m and r, these two already updated.
      raw: the hyperparameters' raw values before this step's move, [T] each.
    """
    scaled = {name: jnp.clip(x, -5.0, 5.0) / 5.0 for name, x in raw.items()}
    rows = []
    for i, (p, g, m, r) in enumerate(tensors):
        means = [jnp.mean(x) for x in (g, m, p, r)]
        signed = [y for x in means for y in (_log(x), jnp.sign(x))]
        row = [
            *(scaled[n][i] for n in NAMES[1:]),
            1.0 if p.ndim == 1 else -1.0,
            1.0 if p.ndim == 0 else -1.0,
            scaled["lr"][i],
            *signed[:2],
            _log(jnp.mean(jnp.abs(g))),
            *signed[2:],
            *(_log(jnp.var(x)) for x in (g, m, p, r)),
        ]
        rows.append(jnp.stack([jnp.asarray(x, jnp.float32) for x in row]))
    return jnp.stack(rows)


def _log(x: Array) -> Array:
    return log_abs(x) / 2.0


def _move(
    theta: MetaParams,
    tensors: list[tuple[Array, Array, Array, Array]],
    state: NNAdamState,
    output_scale: float,
    decay_strength: float,
) -> tuple[dict[str, Array], LstmState]:
    """The hyperparameters' raw values for the next step, and the LSTM's state.

    Args as in `nn_adam` and `lstm_inputs`.
    """
    if not tensors:
        return state.raw, state.lstm
    inputs = lstm_inputs(tensors, state.raw)
    lstm_state = recurrent.lstm(theta["lstm"], inputs, state.lstm)
    moves = output_scale * recurrent.linear(theta["controls"], lstm_state.hidden)
    raw = {name: state.raw[name] + moves[:, j] for j, name in enumerate(NAMES)}
    raw = {
        name: x - decay_strength * (x - theta["initial"][name]) for name, x in raw.items()
    }
    # The round trip clips every raw value to what its range can express.
    return unconstrain(constrain(raw)), lstm_state
