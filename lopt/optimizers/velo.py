"""VeLO: a recurrent network of tensors mixes the networks of their elements.

An LSTM sees every tensor's statistics and how the run is going, and says of which
per-parameter networks, out of a bank of them, the tensor's own is a mixture, and how far
it goes.

References:
  Metz, Harrison, Freeman, Merchant, Beyer, Bradbury, Agrawal, Poole, Mordatch, Roberts,
  Sohl-Dickstein, VeLO: training versatile learned optimizers by scaling up, 2022, arXiv
  2211.09760.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt import checks, features, mup, prng
from lopt.architecture import CLIP, NUM_COURSE, Start, velo_channels
from lopt.base import Array, LearnedOptimizer, MetaParams, Params, Specs
from lopt.optimizers import channels, course, network, recurrent
from lopt.optimizers.channels import Moments
from lopt.optimizers.course import LossAverages
from lopt.optimizers.pieces import Channels
from lopt.optimizers.recurrent import LstmState

EPS = 1e-5
"""Added to the mean squares that channels are normalized by."""
MIXTURE_SCALE = 100.0
MOMENTUM_DECAYS = FACTORED_DECAYS = (0.9, 0.99, 0.999)
RMS_DECAYS = (0.999,)
_MOST_AXES = 4
NUM_INPUTS = NUM_COURSE + 1 + (1 + _MOST_AXES) + 2 * len(MOMENTUM_DECAYS)
NUM_CHANNELS = velo_channels(len(MOMENTUM_DECAYS), len(RMS_DECAYS), len(FACTORED_DECAYS))


class VeloState(NamedTuple):
    """What is known of the run, and of every tensor in the order of the leaves."""

    step: Array  # shape=[], int32
    losses: LossAverages
    lstm: LstmState
    moments: tuple[Moments, ...]


class Controls(NamedTuple):
    """What the recurrent network says of every one of T tensors."""

    mixture: Array  # shape=[T, K], of the bank's networks
    step_mult: Array  # shape=[T]


def velo(
    *,
    hidden_size: int = 128,
    num_networks: int = 64,
    hidden_sizes: Sequence[int] = (4, 4),
    step_mult: float = 0.001,
    exp_mult: float = 0.001,
    loss_horizon: int | None = None,
    keeps_lstm_state: bool = True,
    start: Start = "random",
) -> LearnedOptimizer:
    """A recurrent network of tensors that mixes the networks of their elements.

    p ← p - λ · s · step_mult · a · exp(exp_mult · b) · √(mean(p²) + 1e-9), where (a, b)
    are the outputs of the tensor's network, s is its step from the LSTM, and λ its muP
    multiplier (1 without specs).

    Args:
      hidden_size: H of the LSTM; 512 in the released weights.
      num_networks: K, networks in the bank; 256 in the released weights.
      hidden_sizes: widths of their hidden layers.
      step_mult: scale of the update.
      exp_mult: scale of the logarithm of the update's magnitude.
      loss_horizon: of the longest mean of the loss; None: the run's length. The released
        weights were trained with 10, by mistake.
      keeps_lstm_state: whether the LSTM remembers; in one released file it does not.
      start: what theta is at first; see `architecture.STARTS`. With momentum, networks
        are mixed alike and steps are about 1.

    Raises:
      BrokenRule: a size or a constant is out of range.
    """

    def controls(theta: MetaParams, h: Array) -> Controls:
        mixture = MIXTURE_SCALE * recurrent.linear(theta["controls"], h) / num_networks
        return Controls(mixture, recurrent.linear(theta["step_size"], h)[:, 0])

    def settled(theta: MetaParams) -> MetaParams:
        scale = 1.0 / MIXTURE_SCALE
        return theta | {
            "controls": recurrent.settled(theta["controls"], scale, scale),
            "step_size": recurrent.settled(theta["step_size"], network.QUIET, 1.0),
        }

    return mixture_optimizer(
        tensor_inputs,
        controls,
        settled,
        num_inputs=NUM_INPUTS,
        hidden_size=hidden_size,
        num_networks=num_networks,
        hidden_sizes=hidden_sizes,
        step_mult=step_mult,
        exp_mult=exp_mult,
        loss_horizon=loss_horizon,
        keeps_lstm_state=keeps_lstm_state,
        start=start,
    )


def mixture_optimizer(
    inputs: Callable[[Array, Sequence[Array], Sequence[Moments]], Array],
    controls: Callable[[MetaParams, Array], Controls],
    settled: Callable[[MetaParams], MetaParams],
    *,
    num_inputs: int,
    hidden_size: int,
    num_networks: int,
    hidden_sizes: Sequence[int],
    step_mult: float,
    exp_mult: float,
    loss_horizon: int | None = None,
    keeps_lstm_state: bool = True,
    start: Start = "random",
) -> LearnedOptimizer:
    """What VeLO and Celo share.

    Args:
      inputs: of the run's features [18], the tensors and their moments before this
        step's gradient: what the LSTM sees, [T, num_inputs].
      controls: of theta and the LSTM's output [T, H].
      settled: theta whose controls leave momentum as it is.
      num_inputs: of the LSTM for each tensor.
      hidden_size: and all that follow: as in `velo`.
    """
    checks.check_sizes(hidden_sizes=hidden_sizes, hidden_size=(hidden_size,))
    checks.check_sizes(num_networks=(num_networks,))
    checks.check_positive(step_mult=step_mult, exp_mult=exp_mult)
    if loss_horizon is not None:
        checks.check_integers(10, loss_horizon=loss_horizon)

    adam = channels.first_adam(len(MOMENTUM_DECAYS), len(RMS_DECAYS))
    passed = network.passed(start, adam, MOMENTUM_DECAYS)

    def init(key):
        bank_key, *keys = prng.split(key, 6)
        bank = jax.vmap(network.init_network, (0, None, None))(
            prng.split(bank_key, num_networks),
            (NUM_CHANNELS, *hidden_sizes, 3),
            passed,
        )
        theta = {
            "network": bank,
            "shared": recurrent.init_linear(keys[0], num_inputs, hidden_size),
            "own": recurrent.init_linear(keys[1], num_inputs, hidden_size),
            "lstm": recurrent.init_lstm(keys[2], hidden_size, hidden_size),
            "controls": recurrent.init_linear(keys[3], hidden_size, num_networks),
            "step_size": recurrent.init_linear(keys[4], hidden_size, 1),
        }
        return theta if passed is None else settled(theta)

    def opt_fn(theta, *, specs=None, num_steps=None):
        if num_steps is None:
            raise TypeError("this optimizer needs `num_steps`, the length of the run")
        horizon = num_steps if loss_horizon is None else loss_horizon
        decays = tuple(
            jnp.asarray(d) for d in (MOMENTUM_DECAYS, RMS_DECAYS, FACTORED_DECAYS)
        )

        def init_fn(params):
            leaves = recurrent.tensors(params)
            return VeloState(
                step=jnp.zeros([], jnp.int32),
                losses=course.init_losses(),
                lstm=recurrent.start_lstm(theta["lstm"], len(leaves)),
                moments=tuple(channels.init_moments(p, decays) for p in leaves),
            )

        def update_fn(updates, state, params=None, *, value=None, **extra_args):
            del extra_args
            checks.check_params(params)
            checks.check_value(value)
            step = jnp.asarray(optax.safe_increment(state.step))
            losses = course.add_loss(state.losses, jnp.asarray(value), horizon)
            fractions = course.fraction_features(state.step, num_steps)
            run = jnp.concatenate([fractions, course.loss_features(losses, horizon)])
            p = recurrent.tensors(params)
            if not p:
                return updates, state._replace(step=step, losses=losses)
            lstm = advance(theta, inputs(run, p, state.moments), state.lstm)
            told = controls(theta, lstm.hidden)
            # The sum is CLIP. It says that the moments, which the LSTM has seen without
            # this gradient, are not needed any more: without it XLA would copy them all.
            clip = CLIP + 0.0 * lstm.hidden[0, 0]
            g = [jnp.clip(x, -clip, clip) for x in recurrent.tensors(updates)]
            moments = tuple(
                channels.updated_moments(m, x, decays)
                for m, x in zip(state.moments, g, strict=True)
            )
            networks = mixed(theta["network"], told.mixture)
            changes = []
            for i, x in enumerate(p):
                seen = element_channels(g[i], x, moments[i])
                own = {name: weights[i] for name, weights in networks.items()}
                size = step_mult * jnp.sqrt(jnp.mean(x * x) + 1e-9)
                use = network.change(-told.step_mult[i] * size, exp_mult)
                changes += network.apply_network(own, [seen], jnp.zeros(0), EPS, use)
            return _scaled(changes, params, specs), VeloState(
                step, losses, lstm if keeps_lstm_state else state.lstm, moments
            )

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, opt_fn)


def advance(theta: MetaParams, x: Array, state: LstmState) -> LstmState:
    """The LSTM's next state, from inputs [T, .] of tensors that see their maximum."""
    everyone = jnp.max(jax.nn.relu(recurrent.linear(theta["shared"], x)), axis=0)
    return recurrent.lstm(
        theta["lstm"], recurrent.linear(theta["own"], x) + everyone[None], state
    )


def mixed(bank: MetaParams, mixture: Array) -> MetaParams:
    """Σ_k mixture_k · bank_k for every tensor: leaves [T, ...] of leaves [K, ...]."""
    return jax.tree.map(lambda x: jnp.tensordot(mixture, x, axes=1), bank)


def element_channels(g: Array, p: Array, moments: Moments) -> Channels:
    """The channels of one tensor; see `channels.channels`."""
    return channels.channels(g, p, moments, eps=1e-6, repeats=True)


def tensor_inputs(
    run: Array, params: Sequence[Array], moments: Sequence[Moments]
) -> Array:
    """What the LSTM sees, [T, 30]: the run [18], then of every tensor 12 statistics.

    They are relative to its RMS: log mean r, one of five classes by its number of axes,
    the log variance of each momentum, and the log mean of (r - mean m)², which is as
    published and no variance.
    """
    rows = []
    for p, (m, r, _) in zip(params, moments, strict=True):
        scale = jax.lax.rsqrt(jnp.maximum(1e-9, jnp.mean(p * p)))
        # Numbers are scaled, not the moments, which would be written to memory.
        axes = tuple(range(1, m.ndim))
        means = m.mean(axes, keepdims=True)
        num_axes = min(sum(n > 1 for n in p.shape), _MOST_AXES + 1)
        statistics = [
            features.log_abs(10.0 * scale * jnp.mean(r))[None] / 2.0,
            jnp.asarray([float(num_axes == i) for i in range(_MOST_AXES + 1)]),
            features.log_abs(10.0 * scale**2 * jnp.mean((m - means) ** 2, axes)) / 2.0,
            features.log_abs(10.0 * scale**2 * jnp.mean((r - means) ** 2, axes)) / 2.0,
        ]
        rows.append(jnp.concatenate([run, *statistics]))
    return jnp.stack(rows)


def _scaled(changes: list[Array], params: Params, specs: Specs | None) -> Params:
    """The changes times the muP multipliers, as a tree of the parameters' dtypes."""
    changes = recurrent.as_tree(changes, params, empty=jnp.zeros_like)
    if specs is not None:
        changes = jax.tree.map(
            lambda x, spec: mup.update_multiplier(spec, "relative") * x, changes, specs
        )
    return jax.tree.map(lambda x, p: x.astype(p.dtype), changes, params)
