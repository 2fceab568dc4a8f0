"""Per-layer combinations of base optimizers, after L3RS.

For each parameter tensor φ_ℓ the directions of K base optimizers, each normalized to
unit RMS, are mixed:

    Δφ_ℓ = −λ_ℓ (Σ_k μ_{ℓ,k} m_{ℓ,k} d̂_{ℓ,k} + ω_ℓ φ_ℓ)

λ (step size), μ (mixture) and ω (decoupled weight decay) come from the policy
(policy.py), one small network shared by all tensors; m is the muP multiplier of the
tensor for that kind of direction (mup.py). The inner loss must be passed as `value`.

Departures from the paper: the policy corrects a stated prior, weight decay is one of its
outputs, the multipliers follow muP, and structure takes the place of the embedding of
each layer, which remains as an option.

References:
  Kristiansen, Sandler, Zhmoginov, Miller, Goyal, Lee, Vladymyrov, Narrowing the Focus:
  Learned Optimizers for Pretrained Models, 2024, arXiv 2408.09310.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lopt import bases as base_table
from lopt import mup
from lopt.base import Array, LearnedOptimizer, MetaParams, OptFn, PRNGKey, Specs
from lopt.bases import BASES, Base
from lopt.config import BrokenRule
from lopt.errors import unknown_name
from lopt.optimizers import checks, policy
from lopt.packing import Packing, Stacks, packing

EPS = 1e-12
"""Keeps logs and quotients of zero gradients finite."""

PRIOR_LOGITS: Mapping[str, float] = MappingProxyType({"muon": 4.0, "adam": 2.0})
"""Orthogonalized momentum for matrices, Adam elsewhere."""


class LayerwiseState(NamedTuple):
    """What a per-layer combination carries from step to step."""

    step: Array  # shape=[], int32
    bases: tuple[Any, ...]  # each base's state, over stacks
    averages: policy.Statistics  # leaves [..., time scales]


def layerwise(
    *,
    bases: Sequence[str] = ("muon", "adam", "lion", "sgd"),
    hidden_sizes: Sequence[int] = (16,),
    learning_rate: float = 0.04,
    decay_steps: float = 30.0,
    final: float = 0.05,
    weight_decay: float = 2.5,
    prior_logits: Mapping[str, float] = PRIOR_LOGITS,
    embedding_size: int = 0,
    num_tensors: int = 0,
) -> LearnedOptimizer:
    """A per-layer combination of base optimizers, steered by a shared network.

    Args:
      bases: names in `BASES`; their order is part of theta's meaning, and the
        agreement with the gradient is that of the first one's momentum.
      hidden_sizes: of the policy network; empty: a linear policy.
      learning_rate: of the prior at the first step.
      decay_steps: steps after which the prior's step size has halved.
      final: what the prior's linear descent leaves at the end of a run.
      weight_decay: ω of the prior.
      prior_logits: of the prior's mixture; absent bases have 0.
      embedding_size: entries of a learned embedding of each tensor; 0: none.
      num_tensors: how many tensors are embedded: the network that it specializes to.

    Returns:
      Its theta: `network` (weights w_i [inputs, outputs], biases b_i), and `embedding`
      [num_tensors, embedding_size] if asked for.

    Raises:
      ConfigError: an option out of range, an unknown base, no base for vectors, or an
        embedding of no tensors.
    """
    checks.check_sizes(hidden_sizes=hidden_sizes)
    checks.check_not_negative(embedding_size=embedding_size, num_tensors=num_tensors)
    if embedding_size and not num_tensors:
        rule = "be positive where tensors are embedded"
        raise BrokenRule("num_tensors", rule, num_tensors)
    combination = _combination(
        bases, learning_rate, decay_steps, final, weight_decay, prior_logits
    )

    def init(key: PRNGKey) -> MetaParams:
        inputs = policy.NUM_INPUTS + embedding_size
        theta: MetaParams = {
            "network": policy.init_network(key, inputs, hidden_sizes, len(bases) + 2)
        }
        if embedding_size:
            theta["embedding"] = jnp.zeros((num_tensors, embedding_size))
        return theta

    def opt_fn(
        theta: MetaParams,
        *,
        specs: Specs | None = None,
        num_steps: ArrayLike | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        if num_steps is None:
            raise TypeError("`layerwise` needs `num_steps`, the length of the run")
        return _transformation(theta, combination, specs, num_steps, _decide)

    return LearnedOptimizer(init, opt_fn)


def layerwise_policy(
    theta: MetaParams,
    state: LayerwiseState,
    pack: Packing,
    num_steps: ArrayLike,
    options: Mapping[str, Any],
) -> policy.Policy:
    """What `layerwise` decided in the update that led to a state: for people to look at.

    Args:
      theta: meta-parameters.
      state: after an update.
      pack: of the parameters' specs; the policy is in the order of its tensors.
      num_steps: length of the run.
      options: all of those of the factory `layerwise`.
    """
    combination = _combination_of(options)
    total = jnp.asarray(num_steps, jnp.float32)
    return _decide(theta, combination, pack, state.averages, state.step - 1, total)


Decide = Callable[[MetaParams, Packing, Array, Array], policy.Policy]
"""`(theta, pack, step [], num_steps []) -> Policy`, in the order of the packing."""


def layerwise_following(decide: Decide, options: Mapping[str, Any]) -> OptFn:
    """`layerwise` with decisions from elsewhere in place of its policy's: for controls.

    Args:
      decide: what is done instead; theta is what the result is called with.
      options: all of those of the factory `layerwise`.
    """
    combination = _combination_of(options)

    def follow(theta, combination, pack, averages, step, num_steps):
        del combination, averages
        return decide(theta, pack, step, num_steps)

    def opt_fn(theta, *, specs=None, num_steps=None):
        if num_steps is None:
            raise TypeError("`layerwise` needs `num_steps`, the length of the run")
        return _transformation(theta, combination, specs, num_steps, follow)

    return opt_fn


class _Combination(NamedTuple):
    """What is mixed, and the policy that theta corrects."""

    table: tuple[Base, ...]
    prior: policy.Prior


def _combination_of(options: Mapping[str, Any]) -> _Combination:
    return _combination(
        **{name: options[name] for name in signature(_combination).parameters}
    )


def _combination(
    bases: Sequence[str],
    learning_rate: float,
    decay_steps: float,
    final: float,
    weight_decay: float,
    prior_logits: Mapping[str, float],
) -> _Combination:
    checks.check_positive(learning_rate=learning_rate, decay_steps=decay_steps)
    checks.check_not_negative(final=final, weight_decay=weight_decay)
    for name in bases:
        if name not in BASES:
            raise unknown_name("base in `bases`", name, BASES)
    for name in prior_logits:
        if name not in BASES:
            raise unknown_name("base in `prior_logits`", name, BASES)
    table = tuple(BASES[name]() for name in bases)
    if not any(base.kind == "entrywise" for base in table):
        rule = "hold one that fits vectors"
        raise BrokenRule("bases", rule, list(bases), hint="add `adam`")
    logits = tuple(float(prior_logits.get(name, 0.0)) for name in bases)
    prior = policy.Prior(learning_rate, decay_steps, final, weight_decay, logits)
    return _Combination(table, prior)


def _transformation(
    theta: MetaParams,
    combination: _Combination,
    specs: Specs | None,
    num_steps: ArrayLike,
    decide: Callable[..., policy.Policy],
) -> optax.GradientTransformationExtraArgs:
    table = combination.table

    def layout(params) -> Packing:
        return packing(mup.infer_specs(params) if specs is None else specs)

    def init_fn(params) -> LayerwiseState:
        pack = layout(params)
        stacks = pack.pack(params)
        return LayerwiseState(
            step=jnp.zeros((), jnp.int32),
            bases=tuple(base.transform.init(stacks) for base in table),
            averages=policy.start_averages(pack.num_tensors),
        )

    def update_fn(grads, state: LayerwiseState, params=None, *, value, **extra_args):
        del extra_args
        if params is None:
            raise ValueError(checks.NO_PARAMS)
        pack = layout(params)
        g, p = pack.pack(grads), pack.pack(params)
        directions, states = _directions(table, pack, g, state.bases, p)
        now = _statistics(pack, value, g, p, table[0].momentum(states[0]))
        averages = policy.update_averages(state.averages, now, state.step)
        total = jnp.asarray(num_steps, jnp.float32)
        decision = decide(theta, combination, pack, averages, state.step, total)
        coefficients = _coefficients(table, pack, decision.mixture, directions)
        update = _combine(pack, decision, coefficients, directions, p)
        updates = pack.unpack(update, params)
        return updates, LayerwiseState(state.step + 1, states, averages)

    update: Any = update_fn  # optax's type does not know a required `value`
    return optax.GradientTransformationExtraArgs(init_fn, update)


def _directions(
    table: tuple[Base, ...], pack: Packing, grads: Stacks, states, params: Stacks
) -> tuple[list[Stacks], tuple]:
    """Each base's direction, not yet normalized if entrywise, and its next state."""
    directions, next_states = [], []
    for base, state in zip(table, states, strict=True):
        direction: Any
        direction, state = base.transform.update(grads, state, params)
        if base.kind == "orthogonalized":
            direction = base_table.orthogonalized(direction, pack)
        directions.append(direction)
        next_states.append(state)
    return directions, tuple(next_states)


def _statistics(
    pack: Packing, value: ArrayLike, grads: Stacks, params: Stacks, momentum: Stacks
) -> policy.Statistics:
    grad_rms, momentum_rms = pack.rms(grads), pack.rms(momentum)
    sizes = jnp.asarray(
        [max(math.prod(spec.shape), 1) for spec in pack.specs], jnp.float32
    )
    dot = pack.sums(tuple(m * g for m, g in zip(momentum, grads, strict=True))) / sizes
    return policy.Statistics(
        log_loss=jnp.log(jnp.abs(jnp.asarray(value, jnp.float32)) + EPS),
        log_grad=jnp.log(grad_rms + EPS),
        log_param=jnp.log(pack.rms(params) + EPS),
        agreement=dot / (grad_rms * momentum_rms + EPS * EPS),
        log_signal=jnp.log(momentum_rms + EPS) - jnp.log(grad_rms + EPS),
    )


def _decide(
    theta: MetaParams,
    combination: _Combination,
    pack: Packing,
    averages: policy.Statistics,
    step: Array,
    num_steps: Array,
) -> policy.Policy:
    inputs = policy.policy_inputs(averages, pack.specs, step, num_steps)
    if "embedding" in theta:
        num_embedded = theta["embedding"].shape[0]
        if num_embedded != pack.num_tensors:
            raise ValueError(
                f"`embedding` is for a network of {num_embedded} tensors, "
                f"got {pack.num_tensors}"
            )
        order = [i for group in pack.groups for i in group]
        inputs = jnp.concatenate([inputs, theta["embedding"][jnp.asarray(order)]], 1)
    outputs = policy.apply_network(theta["network"], inputs)
    table, prior = combination
    available = [[base.applies(spec) for base in table] for spec in pack.specs]
    return policy.decide(prior, outputs, available, pack.specs, step, num_steps)


def _coefficients(
    table: tuple[Base, ...], pack: Packing, mixture: Array, directions: list[Stacks]
) -> Array:
    """Factor of each raw direction: μ m, over its RMS if entrywise: [L, K]"""
    columns = []
    for k, base in enumerate(table):
        multiplier = jnp.asarray(
            [mup.update_multiplier(spec, base.kind) for spec in pack.specs], jnp.float32
        )
        scale = mixture[:, k] * multiplier
        if base.kind == "entrywise":
            scale = scale / (pack.rms(directions[k]) + EPS)
        columns.append(scale)
    return jnp.stack(columns, axis=1)


def _combine(
    pack: Packing,
    decision: policy.Policy,
    coefficients: Array,
    directions: list[Stacks],
    params: Stacks,
) -> Stacks:
    """−λ (Σ_k c_k d_k + ω φ) on every stack."""
    decay = pack.spread(-decision.step_size * decision.weight_decay)
    update = tuple(w * p for w, p in zip(decay, params, strict=True))
    for k, direction in enumerate(directions):
        scale = pack.spread(-decision.step_size * coefficients[:, k])
        update = tuple(
            u + c * d for u, c, d in zip(update, scale, direction, strict=True)
        )
    return update
