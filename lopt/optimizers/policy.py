"""The policy of `layerwise`: what each tensor's statistics say its update should be.

For every tensor of a network the policy returns a step size λ, a mixture μ over base
directions and a weight decay ω. It is a stated prior that already trains well, corrected
by one small network shared by all tensors:

    λ = λ₀(t) exp(o_λ), λ₀ = learning_rate / (1 + t/decay_steps) · (1 − (1 − final) t/T)
    ω = ω₀ exp(o_ω) on matrices, 0 elsewhere
    μ = softmax(prior logits + o_μ) over the bases that the tensor has

With its output layer at zero, as initialized, the policy *is* the prior.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt.base import ROLES, Array, MetaParams, ParamSpec, PRNGKey

EMA_DECAYS = (0.9, 0.99, 1.0)
"""Time scales of the averages, the last one keeps the first value for good."""

BOUND = 3.0
"""Inputs are clipped to ± this: what was not seen is not extrapolated wildly."""


class Prior(NamedTuple):
    """The constants of the policy that the network corrects."""

    learning_rate: float
    decay_steps: float
    final: float
    weight_decay: float
    logits: tuple[float, ...]  # one for each base


class Policy(NamedTuple):
    """What every tensor should do now."""

    step_size: Array  # shape=[L], λ
    mixture: Array  # shape=[L, K], μ, rows sum to one
    weight_decay: Array  # shape=[L], ω


class Statistics(NamedTuple):
    """What is measured at one step; logs of positive quantities."""

    log_loss: Array  # shape=[]
    log_grad: Array  # shape=[L], log RMS of the gradient
    log_param: Array  # shape=[L], log RMS of the parameters
    agreement: Array  # shape=[L], cosine between momentum and gradient
    log_signal: Array  # shape=[L], log of RMS momentum over RMS gradient


def prior_step_size(prior: Prior, step: Array, num_steps: Array) -> Array:
    """λ₀(t): hyperbolic decay times a linear descent to `final` at the end, []."""
    progress = jnp.minimum(step / num_steps, 1.0)
    hyperbolic = prior.learning_rate / (1.0 + step / prior.decay_steps)
    return hyperbolic * (1.0 - (1.0 - prior.final) * progress)


def start_averages(num_tensors: int) -> Statistics:
    """The averages before the first step; their values are not used."""
    decays = len(EMA_DECAYS)
    per_tensor = jnp.zeros((num_tensors, decays))
    return Statistics(jnp.zeros((decays,)), *[per_tensor] * 4)


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
    """What the network sees of each tensor, [L, F], every entry within ± BOUND.

    Scale-free by construction: of losses and norms only their changes between time
    scales are seen, never their level.
    """
    num_tensors = len(specs)
    progress = jnp.minimum(step / num_steps, 1.0)
    loss = averages.log_loss
    shared = jnp.stack(
        [
            2.0 * progress - 1.0,
            jnp.square(2.0 * progress - 1.0),
            jnp.log1p(step) / 3.0 - 1.0,
            jnp.log(num_steps / 300.0),
            loss[0] - loss[1],
            loss[1] - loss[2],
        ]
    )
    per_tensor = jnp.stack(
        [
            averages.log_grad[:, 0] - averages.log_grad[:, 1],
            averages.log_grad[:, 1] - averages.log_grad[:, 2],
            averages.log_param[:, 0] - averages.log_param[:, 2],
            2.0 * averages.agreement[:, 0] - 1.0,
            averages.agreement[:, 0] - averages.agreement[:, 1],
            averages.log_signal[:, 0] + 1.0,
            averages.log_signal[:, 0] - averages.log_signal[:, 1],
        ],
        axis=1,
    )
    shared = jnp.broadcast_to(shared, (num_tensors, shared.shape[0]))
    structure = jnp.asarray([_structure(spec) for spec in specs]).reshape(
        num_tensors, NUM_STRUCTURE
    )
    inputs = jnp.concatenate([shared, per_tensor, structure], axis=1)
    return jnp.clip(inputs, -BOUND, BOUND)


NUM_SHARED, NUM_PER_TENSOR, NUM_STRUCTURE = 6, 7, len(ROLES) + 3
NUM_INPUTS = NUM_SHARED + NUM_PER_TENSOR + NUM_STRUCTURE
"""F, the inputs of the network without an embedding."""


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


def init_network(
    key: PRNGKey, num_inputs: int, hidden_sizes: Sequence[int], num_outputs: int
) -> MetaParams:
    """Weights of the network: scaled normal, the output layer zero."""
    sizes = (num_inputs, *hidden_sizes, num_outputs)
    layers = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        key, layer_key = jax.random.split(key)
        w = jax.random.normal(layer_key, (fan_in, fan_out)) / math.sqrt(fan_in)
        last = i == len(sizes) - 2
        layers[f"w{i}"] = jnp.zeros_like(w) if last else w
        layers[f"b{i}"] = jnp.zeros((fan_out,))
    return layers


def apply_network(layers: MetaParams, inputs: Array) -> Array:
    """tanh network, [L, F] -> [L, outputs]; linear where it has no hidden layer."""
    x, num_layers = inputs, len(layers) // 2
    for i in range(num_layers):
        x = x @ layers[f"w{i}"] + layers[f"b{i}"][None]
        x = jnp.tanh(x) if i < num_layers - 1 else x
    return x


def decide(
    prior: Prior,
    outputs: Array,
    available: Sequence[Sequence[bool]],
    specs: Sequence[ParamSpec],
    step: Array,
    num_steps: Array,
) -> Policy:
    """The prior corrected by the network's outputs.

    Args:
      prior: its constants.
      outputs: [L, K + 2]: K mixture logits, log step size, log decay.
      available: for each tensor, which of the K bases it has.
      specs: for each tensor.
      step: inner step, [].
      num_steps: run length, [].
    """
    num_bases = len(prior.logits)
    mask = jnp.asarray(available, bool).reshape(len(specs), num_bases)
    is_matrix = jnp.asarray([float(spec.is_matrix) for spec in specs])
    logits = jnp.asarray(prior.logits)[None] + outputs[:, :num_bases]
    mixture = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf), axis=1)
    step_size = prior_step_size(prior, step, num_steps) * jnp.exp(outputs[:, -2])
    decay = prior.weight_decay * jnp.exp(outputs[:, -1]) * is_matrix
    return Policy(step_size, mixture, decay)
