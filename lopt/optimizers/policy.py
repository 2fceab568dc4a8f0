"""The policy of `layerwise`: what each tensor's statistics say its update should be.

For every tensor of a network the policy returns a step size λ, a blend α of the gradient
and its momenta, a mixture μ over the base directions of that blend, and a weight decay ω.
It is a stated prior that already trains well, corrected by one small network shared by
all tensors (inputs.py says what it sees):

    λ = λ₀(t) exp(o_λ), λ₀ = learning_rate / (1 + t/decay_steps) · (1 − (1 − final) t/T)
    ω = ω₀(L) exp(decay_gain · o_ω) on matrices, else 0,
        ω₀ = weight_decay · logit_scale^(−1/L)
    α = softmax(log prior shares + 3 o_α)
    μ = softmax(prior logits + 3 o_μ) over the bases that the tensor has

With its output layer at zero, as initialized, the policy *is* the prior.

The decay depends on L, how many layers are in a row. Steps of unit RMS against a decay ω
hold a matrix at a size in proportion to 1/ω, and the logits of L such layers without
normalization are in proportion to ω^(−L). For one scale C of the logits, which is what
overconfidence is about, ω must be ω_∞ C^(−1/L). Tuned for each depth, the best decay of
digits MLPs is 1.4, 2, 2.5 and 3.2 at L = 2, 3, 4 and 7 (probes; benchmarks/LOG.md):
ω_∞ = 4.5, C = 10.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt import prng
from lopt.architecture import LOGIT_GAIN, UNKNOWN_LAYERS
from lopt.base import Array, MetaParams, ParamSpec, PRNGKey


class Prior(NamedTuple):
    """The constants of the policy that the network corrects."""

    learning_rate: float
    decay_steps: float
    final: float
    weight_decay: float  # of infinitely many layers
    logit_scale: float
    decay_gain: float
    logits: tuple[float, ...]  # one for each base
    blend: tuple[float, ...]  # shares of the gradient and of each momentum


class Policy(NamedTuple):
    """What every tensor should do now."""

    step_size: Array  # shape=[L], λ
    mixture: Array  # shape=[L, K], μ, rows sum to one
    blend: Array  # shape=[L, 1 + M], α, rows sum to one; the first is γ
    weight_decay: Array  # shape=[L], ω


def prior_step_size(prior: Prior, step: Array, num_steps: Array) -> Array:
    """λ₀(t): hyperbolic decay times a linear descent to `final` at the end, []."""
    progress = jnp.minimum(step / num_steps, 1.0)
    hyperbolic = prior.learning_rate / (1.0 + step / prior.decay_steps)
    return hyperbolic * (1.0 - (1.0 - prior.final) * progress)


def prior_decay(prior: Prior, specs: Sequence[ParamSpec]) -> Array:
    """ω₀ of every tensor: `weight_decay` · `logit_scale`^(−1/L) on matrices, else 0."""
    layers = [spec.num_layers or UNKNOWN_LAYERS for spec in specs]
    factors = [
        prior.logit_scale ** (-1.0 / n) if spec.is_matrix else 0.0
        for spec, n in zip(specs, layers, strict=True)
    ]
    return prior.weight_decay * jnp.asarray(factors, jnp.float32)


def init_network(
    key: PRNGKey, num_inputs: int, hidden_sizes: Sequence[int], num_outputs: int
) -> MetaParams:
    """Weights of the network: scaled normal, the output layer zero."""
    sizes = (num_inputs, *hidden_sizes, num_outputs)
    layers = {}
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        w = prng.normal(prng.fold_in(key, i), fan_in, fan_out) / math.sqrt(fan_in)
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
      outputs: [L, K + M + 3], before their gains: K mixture logits, 1 + M of the
        blend, log step size, log decay.
      available: for each tensor, which of the K bases it has.
      specs: for each tensor.
      step: inner step, [].
      num_steps: run length, [].
    """
    num_bases = len(prior.logits)
    mask = jnp.asarray(available, bool).reshape(len(specs), num_bases)
    logits = jnp.asarray(prior.logits)[None] + LOGIT_GAIN * outputs[:, :num_bases]
    mixture = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf), axis=1)
    shares = jnp.log(jnp.asarray(prior.blend))[None]
    blend = jax.nn.softmax(shares + LOGIT_GAIN * outputs[:, num_bases:-2], axis=1)
    factors = jnp.exp(outputs[:, -2:] * jnp.asarray([[1.0, prior.decay_gain]]))
    step_size = prior_step_size(prior, step, num_steps) * factors[:, 0]
    decay = prior_decay(prior, specs) * factors[:, 1]
    return Policy(step_size, mixture, blend, decay)
