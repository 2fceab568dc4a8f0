"""RNNMLP: an LSTM for every tensor and an MLP for every element tell each other things.

References:
  Metz, Maheswaranathan, Freeman, Poole, Sohl-Dickstein, Tasks, stability, architecture,
  and compute: training more effective learned optimizers, and using them to train
  themselves, 2020, arXiv 2009.11243.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lopt import checks, features, prng
from lopt.architecture import TIME_SCALES, Start
from lopt.base import Array, LearnedOptimizer
from lopt.features import log_abs
from lopt.numerics import root
from lopt.optimizers import network, recurrent
from lopt.optimizers.pieces import Channels, Mean
from lopt.optimizers.recurrent import LstmState

EPS = 1e-5
"""Added to the mean squares that channels are normalized by."""
TRAIN_DECAY, VALID_DECAY, CLIP_DECAY = 0.9, 0.95, 0.99
CLIP = 10.0
"""Gradients are clipped at so many times their usual size."""
MOST_AXES = 4


class LossStatistics(NamedTuple):
    """Running mean and variance of a loss, not corrected for their start."""

    mean: Array  # shape=[]
    variance: Array  # shape=[]
    updates: Array  # shape=[], int32


class Clipping(NamedTuple):
    """The usual size of a gradient's entries."""

    step: Array  # shape=[]
    size: Array  # shape=[]


class Statistics(NamedTuple):
    """Of one tensor, with this step's gradient."""

    momenta: Array  # shape=[D, *s]
    second_moments: Array  # shape=[D, *s]


class RnnMlpState(NamedTuple):
    """What is known of the run, and of T tensors in the order of the leaves."""

    step: Array  # shape=[], int32
    train: LossStatistics
    valid: LossStatistics
    clipping: Clipping
    lstm: LstmState
    from_lstm: Array  # shape=[L], what the LSTM tells all tensors
    from_mlp: Array  # shape=[T, M], what their MLPs tell the LSTM
    statistics: tuple[Statistics, ...]


def rnn_mlp(
    *,
    hidden_size: int = 64,
    hidden_sizes: Sequence[int] = (32, 32),
    from_mlp: int = 16,
    from_lstm: int = 18,
    lstm_to_mlp: int = 17,
    decays: Sequence[float] = (0.5, 0.9, 0.99, 0.999, 0.9999),
    step_mult: float = 0.001,
    exp_mult: float = 0.01,
    start: Start = "random",
) -> LearnedOptimizer:
    """An LSTM for every tensor that steers, and learns from, the MLP of its elements.

    p ← p - λ · step_mult · a · exp(exp_mult · b), where (a, b) are outputs of the
    elements' network, and λ is the tensor's muP multiplier (1 without specs). A call with
    `is_valid=True` tells the optimizer a validation loss as `value`, and changes no
    parameter.

    Args:
      hidden_size: H of the LSTM.
      hidden_sizes: widths of the MLP's hidden layers.
      from_mlp: M, how many numbers an MLP tells the LSTM.
      from_lstm: L, how many the LSTM tells all tensors in the next step.
      lstm_to_mlp: how many it tells each tensor's MLP.
      decays: of the momenta and second moments.
      step_mult: scale of the update.
      exp_mult: scale of the logarithm of the update's magnitude.
      start: what theta is at first; see `architecture.STARTS`.

    Raises:
      BrokenRule: a size, a decay or a constant is out of range.
    """
    checks.check_sizes(hidden_sizes=hidden_sizes, hidden_size=(hidden_size,))
    checks.check_integers(
        1, from_mlp=from_mlp, from_lstm=from_lstm, lstm_to_mlp=lstm_to_mlp
    )
    checks.check_decays(decays=decays)
    checks.check_positive(step_mult=step_mult, exp_mult=exp_mult)
    num_inputs = from_lstm + from_mlp + 14 + MOST_AXES
    num_channels = 3 + 4 * len(decays)
    adam = 3 + 2 * len(decays)  # the first m rsqrt(r)
    passed = network.passed(start, adam, decays)
    num_shared = len(TIME_SCALES) + 3 + lstm_to_mlp

    def init(key):
        keys = prng.split(key, 4)
        sizes = (num_channels + num_shared, *hidden_sizes, 2 + from_mlp)
        return {
            "network": network.init_network(keys[0], sizes, passed),
            "lstm": recurrent.init_lstm(keys[1], num_inputs, hidden_size),
            "to_all": recurrent.init_linear(keys[2], hidden_size, from_lstm),
            "to_mlp": recurrent.init_linear(keys[3], hidden_size, lstm_to_mlp),
            "from_lstm": jnp.zeros(from_lstm),
            "from_mlp": jnp.zeros(from_mlp),
        }

    change = network.change(step_mult, exp_mult)

    def use(outputs):
        return change(outputs), [Mean(y) for y in outputs[2:]]

    def opt_fn(theta, *, specs=None, num_steps=None):
        del num_steps

        def init_fn(params):
            leaves = recurrent.tensors(params)
            nothing = LossStatistics(
                jnp.zeros([]), jnp.zeros([]), jnp.zeros([], jnp.int32)
            )
            zeros = (features.zeros(p, len(decays)) for p in leaves)
            return RnnMlpState(
                step=jnp.zeros([], jnp.int32),
                train=nothing,
                valid=nothing,
                clipping=Clipping(jnp.float32(1.0), jnp.float32(0.01)),
                lstm=recurrent.start_lstm(theta["lstm"], len(leaves)),
                from_lstm=theta["from_lstm"],
                from_mlp=jnp.tile(theta["from_mlp"], (len(leaves), 1)),
                statistics=tuple(Statistics(z, z) for z in zeros),
            )

        def update_fn(
            updates,
            state,
            params=None,
            *,
            value=None,
            is_valid: ArrayLike = False,
            **extra,
        ):
            del extra
            checks.check_params(params)
            checks.check_value(value)
            step = jnp.asarray(optax.safe_increment(state.step))
            value = jnp.asarray(value)
            trained = train(updates, state, params, value)
            valid = add_loss(state.valid, value, VALID_DECAY)
            no_change = jax.tree.map(jnp.zeros_like, params)
            told = no_change, state._replace(valid=valid)
            updates, state = jax.tree.map(
                lambda a, b: jnp.where(is_valid, a, b), told, trained
            )
            return updates, state._replace(step=step)

        def train(updates, state, params, value):
            p = recurrent.tensors(params)
            losses = add_loss(state.train, value, TRAIN_DECAY)
            if not p:
                return updates, state._replace(train=losses)
            clipping, g = clip(state.clipping, recurrent.tensors(updates))
            d = jnp.asarray(decays, jnp.float32)
            statistics = tuple(
                Statistics(
                    features.update_momenta(m, x, d),
                    features.update_second_moments(r, x, d),
                )
                for (m, r), x in zip(state.statistics, g, strict=True)
            )
            known = losses, state.valid, state.from_lstm, state.from_mlp
            x = tensor_inputs(value, *known, g, p, statistics)
            lstm = recurrent.lstm(theta["lstm"], x, state.lstm)
            to_mlp = recurrent.linear(theta["to_mlp"], lstm.hidden)
            made = []
            for i, x in enumerate(p):
                shared = shared_inputs(state.step, len(p), x, to_mlp[i])
                seen = channels(g[i], x, statistics[i])
                made += network.apply_network(theta["network"], [seen], shared, EPS, use)
            changes, told = zip(*made, strict=True)
            changes = recurrent.as_tree(changes, params, empty=jnp.zeros_like)
            return network.updates(changes, params, specs), state._replace(
                train=losses,
                clipping=clipping,
                lstm=lstm,
                from_lstm=recurrent.linear(theta["to_all"], lstm.hidden).mean(0),
                from_mlp=jnp.stack([jnp.stack(x) for x in told]),
                statistics=statistics,
            )

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, opt_fn)


def add_loss(losses: LossStatistics, loss: Array, decay: float) -> LossStatistics:
    """The statistics with another loss, the variance about the new mean."""
    mean = decay * losses.mean + (1 - decay) * loss
    variance = decay * losses.variance + (1 - decay) * (mean - loss) ** 2
    return LossStatistics(mean, variance, losses.updates + 1)


def loss_feature(loss: Array, losses: LossStatistics) -> Array:
    """A loss in standard deviations of the training loss, clipped to ±5."""
    c = _correction(losses, TRAIN_DECAY)
    deviation = (loss - c * losses.mean) * jax.lax.rsqrt(c * losses.variance + 1e-8)
    return jnp.clip(deviation, -5.0, 5.0)


def _correction(losses: LossStatistics, decay: float) -> Array:
    """1 over the share of a mean that is not its start; 0 before the first loss."""
    share = 1.0 - decay ** losses.updates.astype(jnp.float32) + 1e-8
    return jnp.where(losses.updates == 0, 0.0, 1.0 / share)


def clip(clipping: Clipping, grads: Sequence[Array]) -> tuple[Clipping, list[Array]]:
    """Gradients clipped, element by element, at ten times their usual size."""
    most = CLIP * clipping.size / (1.0 - CLIP_DECAY**clipping.step)
    clipped = [jnp.clip(g, -most, most) for g in grads]
    squares = jnp.stack([jnp.mean(g * g) for g in clipped])
    now = jnp.sqrt(1e-8 + squares.mean())
    size = CLIP_DECAY * clipping.size + (1.0 - CLIP_DECAY) * now
    return Clipping(clipping.step + 1.0, size), clipped


def tensor_inputs(
    loss: Array,
    train: LossStatistics,
    valid: LossStatistics,
    from_lstm: Array,
    from_mlp: Array,
    grads: Sequence[Array],
    params: Sequence[Array],
    statistics: Sequence[Statistics],
) -> Array:
    """What the LSTM sees of every tensor, [T, L + M + 18], all with this step's loss."""
    told = jnp.stack(
        [
            loss_feature(loss, train),
            loss_feature(_correction(valid, VALID_DECAY) * valid.mean, train),
        ]
    )
    rows = []
    for own, g, p, (m, r) in zip(from_mlp, grads, params, statistics, strict=True):
        sizes = [*p.shape, *[1] * MOST_AXES][:MOST_AXES]
        means = [jnp.mean(x) for x in (m, r, p)]
        row = [
            log_abs(_norm(g)),
            1.0 if p.ndim == 0 else -1.0,
            *(y for x in means for y in (log_abs(x), jnp.sign(x))),
            log_abs(_norm(p)),
            *(jnp.log(float(n)) - 1.0 for n in sizes),
            *told,
            *(log_abs(jnp.var(x)) for x in (m, r, p)),
        ]
        row = jnp.stack([jnp.asarray(x, jnp.float32) for x in row])
        rows.append(jnp.concatenate([from_lstm, own, row]))
    return jnp.stack(rows)


def channels(g: Array, p: Array, statistics: Statistics) -> Channels:
    """The channels of one tensor: g, p, log |p|, m, r, m rsqrt(r), rsqrt(r)."""
    return Channels(_channels, (g[None], p[None], *statistics))


def _channels(g: Array, p: Array, m: Array, r: Array) -> list[Array]:
    inverse = jax.lax.rsqrt(r + 1e-6)
    return [g, p, jnp.log(jnp.abs(p) + 1e-8), m, r, m * inverse, inverse]


def shared_inputs(step: Array, num_tensors: int, p: Array, to_mlp: Array) -> Array:
    """What all elements of a tensor see: sines of time, sizes, the LSTM's message."""
    scales = jnp.pi * jnp.asarray(TIME_SCALES, jnp.float32)
    sizes = [
        jnp.log(float(num_tensors)) - 1.0,
        jnp.log(_norm(p) + 1e-8),
        jnp.log(float(max(p.size, 1))),
    ]
    return jnp.concatenate([jnp.sin(step / scales), jnp.stack(sizes), to_mlp])


def _norm(x: Array) -> Array:
    return root(jnp.sum(x * x))
