"""What the policy of `layerwise` sees of each tensor.

At every step the loss, the norms of a tensor, its gradient and its momenta are measured,
and averaged over two time scales; a third average keeps the first value for good. Nothing
that the policy sees has a scale: of losses and norms only their changes between time
scales are seen, never their level.

How noisy the gradients are shows in how much of them survives in a momentum. Where
minibatches agree, a momentum is as large as the gradient; where they are all noise, one
of decay β has √((1 − β)/(1 + β)) of its size. With momenta of several decays, the logs
of these ratios separate noise (all of them small, by their β) from a gradient that turns
(the slow ones small). The batch size itself is not told.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lopt.architecture import BOUND, EMA_DECAYS, STRUCTURE_BOUND
from lopt.base import ROLES, Array, ParamSpec
from lopt.packing import Packing, Stacks

EPS = 1e-12
"""Keeps logs and quotients of zero gradients finite."""


class Statistics(NamedTuple):
    """What is measured at one step; logs of positive quantities."""

    log_loss: Array  # shape=[]
    log_grad: Array  # shape=[L], log RMS of the gradient
    log_param: Array  # shape=[L], log RMS of the parameters
    agreement: Array  # shape=[L], cosine between the middle momentum and the gradient
    log_signal: Array  # shape=[L, M], log of RMS momentum over RMS gradient


def measure(
    pack: Packing,
    value: ArrayLike,
    grads: Stacks,
    params: Stacks,
    momenta: Stacks,
    weights: Array,
) -> Statistics:
    """The statistics of one step.

    Args:
      pack: of the tensors.
      value: the loss, [].
      grads: [G, *shape].
      params: likewise.
      momenta: [G, M, *shape], sums of gradients.
      weights: what the gradients' weights in each of the momenta sum to, [M].
    """
    grad_rms = pack.rms(grads)
    shape = pack.num_tensors, len(weights)
    momentum_rms = pack.rms(momenta).reshape(shape) / weights[None]
    middle = (len(weights) - 1) // 2
    products = tuple(m[:, middle] * g for m, g in zip(momenta, grads, strict=True))
    norms = grad_rms * momentum_rms[:, middle]
    log_grad = jnp.log(grad_rms + EPS)
    return Statistics(
        log_loss=jnp.log(jnp.abs(jnp.asarray(value, jnp.float32)) + EPS),
        log_grad=log_grad,
        log_param=jnp.log(pack.rms(params) + EPS),
        agreement=pack.means(products) / (weights[middle] * (norms + EPS * EPS)),
        log_signal=jnp.log(momentum_rms + EPS) - log_grad[:, None],
    )


def start_averages(num_tensors: int, num_momenta: int) -> Statistics:
    """The averages before the first step; their values are not used."""
    shapes = [(), *[(num_tensors,)] * 3, (num_tensors, num_momenta)]
    return Statistics(*[jnp.zeros((*shape, len(EMA_DECAYS))) for shape in shapes])


def update_averages(averages: Statistics, now: Statistics, step: Array) -> Statistics:
    """a ← γ a + (1 − γ) x for every γ, from a = x at the first step."""
    decay = jnp.asarray(EMA_DECAYS)

    def update(average, value):
        value = value[..., None]
        decays = decay.reshape((1,) * (average.ndim - 1) + (-1,))
        return jnp.where(step == 0, value, decays * average + (1 - decays) * value)

    return jax.tree.map(update, averages, now)


def policy_inputs(
    averages: Statistics,
    specs: Sequence[ParamSpec],
    step: Array,
    num_steps: Array,
) -> Array:
    """What the network sees of each tensor, [L, F] in the order of `names`; bounded."""
    num_tensors = len(specs)
    shared = jnp.concatenate([_of_run(step, num_steps), _of_loss(averages.log_loss)])
    shared = jnp.broadcast_to(shared, (num_tensors, len(shared)))
    known = jnp.asarray([_structure(spec) for spec in specs])
    known = jnp.clip(known, -STRUCTURE_BOUND, STRUCTURE_BOUND)
    known = known.reshape(num_tensors, len(_STRUCTURE))
    return jnp.concatenate([shared, _of_tensors(averages), known], axis=1)


_RUN = ("progress", "progress: squared", "step", "run length")
_LOSS = ("loss: fast over slow", "loss: slow over first")
_MEASURED = (
    "gradient: fast over slow",
    "gradient: slow over first",
    "parameters",
    "agreement",
    "agreement: fast over slow",
    "signal: fast over slow",
)
_STRUCTURE = (*(f"role: {role}" for role in ROLES), "place", "layers", "aspect")


def names(momenta: Sequence[float]) -> tuple[str, ...]:
    """Of the network's inputs without an embedding, in order; "group: which of it"."""
    signal = (f"signal: of {decay:g}" for decay in momenta)
    return (*_RUN, *_LOSS, *_MEASURED, *signal, *_STRUCTURE)


def _of_run(step: Array, num_steps: Array) -> Array:
    """Where in which run: [4]."""
    place = 2.0 * jnp.minimum(step / num_steps, 1.0) - 1.0
    logs = jnp.log1p(step) / 3.0 - 1.0, jnp.log(num_steps / 300.0)
    inputs = jnp.stack([place, jnp.square(place), *logs])
    return jnp.clip(inputs, -STRUCTURE_BOUND, STRUCTURE_BOUND)


def _of_loss(log_loss: Array) -> Array:
    """How it falls: [2]."""
    return jnp.clip(log_loss[:2] - log_loss[1:], -BOUND, BOUND)


def _of_tensors(averages: Statistics) -> Array:
    """What is measured of each: [L, 6 + M]."""
    grad, agreement = averages.log_grad, averages.agreement
    signal = averages.log_signal
    middle = signal[:, (signal.shape[1] - 1) // 2]
    columns = jnp.stack(
        [
            grad[:, 0] - grad[:, 1],
            grad[:, 1] - grad[:, 2],
            averages.log_param[:, 0] - averages.log_param[:, 2],
            2.0 * agreement[:, 0] - 1.0,
            agreement[:, 0] - agreement[:, 1],
            middle[:, 0] - middle[:, 1],
        ],
        axis=1,
    )
    inputs = jnp.concatenate([columns, signal[:, :, 0] + 1.0], axis=1)
    return jnp.clip(inputs, -BOUND, BOUND)


def _structure(spec: ParamSpec) -> list[float]:
    """Role, place, number of layers, aspect; zero stands for unknown."""
    role = [float(spec.role == role) for role in ROLES]
    place = 0.0 if spec.depth is None else 2.0 * spec.depth - 1.0
    layers = 0.0 if spec.num_layers is None else math.log(spec.num_layers / 3.0)
    aspect = 0.0
    if spec.is_matrix:  # of the base shape: λ must not drift with width
        base_in, base_out = spec.fan_in / spec.width_in, spec.fan_out / spec.width_out
        aspect = math.log(base_out / base_in) / 3.0
    return [*role, place, layers, aspect]
