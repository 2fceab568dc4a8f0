"""Per-layer combinations of base optimizers, after L3RS.

For each parameter tensor φ_ℓ the gradient g and its running means m_i at several decays
are blended into one momentum, from which K base optimizers make directions d_k, each
brought to unit RMS, that are mixed:

    u_ℓ = α_{ℓ,0} g_ℓ + Σ_i α_{ℓ,i} m̂_{ℓ,i},   m_i ← β_i m_i + (1 − β_i) g, m̂ unbiased
    Δφ_ℓ = −λ_ℓ (Σ_k μ_{ℓ,k} m_{ℓ,k} d̂_k(u_ℓ) + ω_ℓ φ_ℓ)

λ (step size), α (blend), μ (mixture) and ω (decoupled weight decay) come from the policy
(policy.py), one small network shared by all tensors; m_{ℓ,k} is the muP multiplier of
the tensor for that kind of direction (mup.py). The share of the gradient itself, α_0, is
what approximate MARS and Nesterov's momentum set by hand. The inner loss must be passed
as `value`.

Departures from the paper: the bases share their momenta, the policy corrects a stated
prior, blend and weight decay are outputs of it, the multipliers follow muP, and structure
takes the place of the embedding of each layer, which remains as an option.

References:
  Kristiansen, Sandler, Zhmoginov, Miller, Goyal, Lee, Vladymyrov, Narrowing the Focus:
  Learned Optimizers for Pretrained Models, 2024, arXiv 2408.09310.
  Yuan, Liu, Wu, Zhou, Gu, MARS: Unleashing the Power of Variance Reduction for Training
  Large Models, 2024, arXiv 2411.10438.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lopt import checks, mup
from lopt.base import Array, LearnedOptimizer, MetaParams, OptFn, PRNGKey, Specs
from lopt.config import BrokenRule
from lopt.optimizers import inputs, mixing, policy
from lopt.optimizers.combination import Combination, combination_of, combine
from lopt.optimizers.stored import STATE_DTYPES, StateDtype, stored
from lopt.packing import Packing, Stacks, packing

PRIOR_LOGITS: Mapping[str, float] = MappingProxyType({"muon": 4.0})
"""Orthogonalized momentum for matrices, Adam elsewhere."""


class LayerwiseState(NamedTuple):
    """What a per-layer combination carries from step to step."""

    step: Array  # shape=[], int32
    momenta: Stacks  # shapes [G, M, *shape]; start at zero, not yet unbiased
    bases: tuple[Any, ...]  # each base's state, over stacks
    averages: inputs.Statistics  # leaves [..., time scales]


def layerwise(
    *,
    bases: Sequence[str] = ("muon", "adam"),
    momenta: Sequence[float] = (0.9,),
    hidden_sizes: Sequence[int] = (16,),
    learning_rate: float = 0.015,
    decay_steps: float = 1000.0,
    final: float = 0.05,
    weight_decay: float = 4.5,
    logit_scale: float = 10.0,
    decay_gain: float = 1.0,
    prior_logits: Mapping[str, float] = PRIOR_LOGITS,
    prior_blend: Sequence[float] = (0.45, 0.55),
    embedding_size: int = 0,
    num_tensors: int = 0,
    state_dtype: StateDtype = "float32",
) -> LearnedOptimizer:
    """A per-layer combination of base optimizers, steered by a shared network.

    Args:
      bases: names in `BASES`; their order is part of theta's meaning.
      momenta: decays β of the running means; the middle one is what the gradient's
        agreement is measured with.
      hidden_sizes: of the policy network; empty: a linear policy.
      learning_rate: of the prior at the first step.
      decay_steps: steps after which the prior's step size has halved.
      final: what the prior's linear descent leaves at the end of a run.
      weight_decay: ω of the prior for a network of infinitely many layers.
      logit_scale: C of the prior, by which ω is smaller for few layers (policy.py).
      decay_gain: of the network's output for ω. Deep networks are so sensitive to it
        that where tasks are alike a smaller one trains better (benchmarks/LOG.md).
      prior_logits: of the prior's mixture; absent bases have 0.
      prior_blend: the prior's shares of the gradient and of each momentum.
      embedding_size: entries of a learned embedding of each tensor; 0: none.
      num_tensors: how many tensors are embedded: the network that it specializes to.
      state_dtype: of momenta and what the bases keep between updates: "bfloat16" halves
        their memory.

    Returns:
      Its theta: `network` (weights w_i [inputs, outputs], biases b_i), and `embedding`
      [num_tensors, embedding_size] if asked for.

    Raises:
      ConfigError: an option out of range, an unknown base, no base for vectors, or an
        embedding of no tensors.
    """
    checks.check_sizes(hidden_sizes=hidden_sizes)
    checks.check_not_negative(embedding_size=embedding_size, num_tensors=num_tensors)
    checks.check_choices(STATE_DTYPES, state_dtype=state_dtype)
    if embedding_size and not num_tensors:
        rule = "be positive where tensors are embedded"
        raise BrokenRule("num_tensors", rule, num_tensors)
    combination = combine(
        bases,
        momenta,
        learning_rate,
        decay_steps,
        final,
        weight_decay,
        logit_scale,
        decay_gain,
        prior_logits,
        prior_blend,
    )

    def init(key: PRNGKey) -> MetaParams:
        num_inputs = len(inputs.names(momenta)) + embedding_size
        num_outputs = len(bases) + len(momenta) + 3
        network = policy.init_network(key, num_inputs, hidden_sizes, num_outputs)
        theta: MetaParams = {"network": network}
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
        optimizer = _transformation(theta, combination, specs, num_steps, _decide)
        return stored(optimizer, state_dtype, ("momenta", "bases"))

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
    combination = combination_of(options)
    total = jnp.asarray(num_steps, jnp.float32)
    return _decide(theta, combination, pack, state.averages, state.step - 1, total)


Decide = Callable[[MetaParams, Packing, Array, Array], policy.Policy]
"""`(theta, pack, step [], num_steps []) -> Policy`, in the order of the packing."""


def prior_decisions(options: Mapping[str, Any]) -> Decide:
    """What the prior decides, its λ and ω taken from theta: for the control `static`.

    Args:
      options: all of those of the factory `layerwise`; theta's `learning_rate` and
        `weight_decay` take the place of two of them.
    """
    combination = combination_of(options)
    num_outputs = len(combination.table) + len(combination.decays) + 3

    def decide(theta, pack, step, num_steps):
        prior = combination.prior._replace(
            learning_rate=theta["learning_rate"], weight_decay=theta["weight_decay"]
        )
        return policy.decide(
            prior,
            jnp.zeros((pack.num_tensors, num_outputs)),
            combination.available(pack),
            pack.specs,
            step,
            num_steps,
        )

    return decide


def layerwise_following(decide: Decide, options: Mapping[str, Any]) -> OptFn:
    """`layerwise` with decisions from elsewhere in place of its policy's: for controls.

    Args:
      decide: what is done instead; theta is what the result is called with.
      options: all of those of the factory `layerwise`.
    """
    combination = combination_of(options)

    def follow(theta, combination, pack, averages, step, num_steps):
        del combination, averages
        return decide(theta, pack, step, num_steps)

    def opt_fn(theta, *, specs=None, num_steps=None):
        if num_steps is None:
            raise TypeError("`layerwise` needs `num_steps`, the length of the run")
        return _transformation(theta, combination, specs, num_steps, follow)

    return opt_fn


def _transformation(
    theta: MetaParams,
    combination: Combination,
    specs: Specs | None,
    num_steps: ArrayLike,
    decide: Callable[..., policy.Policy],
) -> optax.GradientTransformationExtraArgs:
    table, decays = combination.table, jnp.asarray(combination.decays)

    def layout(params) -> Packing:
        return packing(mup.infer_specs(params) if specs is None else specs)

    def init_fn(params) -> LayerwiseState:
        pack = layout(params)
        stacks = pack.pack(params)
        return LayerwiseState(
            step=jnp.zeros((), jnp.int32),
            momenta=mixing.start_momenta(stacks, len(decays)),
            bases=tuple(base.init(stacks, pack) for base in table),
            averages=inputs.start_averages(pack.num_tensors, len(decays)),
        )

    def update_fn(
        grads, state: LayerwiseState, params=None, *, value: Any = None, **extra_args
    ):
        del extra_args
        checks.check_params(params)
        checks.check_value(value)
        pack, step = layout(params), state.step
        g, p = pack.pack(grads), pack.pack(params)
        momenta = mixing.update_momenta(decays, g, state.momenta)
        weights = mixing.weights(decays, step)
        now = inputs.measure(pack, value, g, p, momenta, weights)
        averages = inputs.update_averages(state.averages, now, step)
        total = jnp.asarray(num_steps, jnp.float32)
        decision = decide(theta, combination, pack, averages, step, total)
        stacks = mixing.parts(pack, decision.blend, g, momenta, weights)
        u = tuple(mixing.blended(*stack) for stack in stacks)
        bases = tuple(
            base.update(u, g, its_state, step, pack)
            for base, its_state in zip(table, state.bases, strict=True)
        )
        d = [
            base.direction(u, its_state, step, pack)
            for base, its_state in zip(table, bases, strict=True)
        ]
        measured = mixing.with_same_rms(d, table, bases, step, pack, stacks)
        update = mixing.update(pack, decision, table, d, measured, p)
        updates = pack.unpack(update, params)
        return updates, LayerwiseState(step + 1, momenta, bases, averages)

    update: Any = update_fn  # optax's type does not know this state
    return optax.GradientTransformationExtraArgs(init_fn, update)


def _decide(
    theta: MetaParams,
    combination: Combination,
    pack: Packing,
    averages: inputs.Statistics,
    step: Array,
    num_steps: Array,
) -> policy.Policy:
    seen = inputs.policy_inputs(averages, pack.specs, step, num_steps)
    if "embedding" in theta:
        num_embedded = theta["embedding"].shape[0]
        if num_embedded != pack.num_tensors:
            raise ValueError(
                f"`embedding` is for a network of {num_embedded} tensors, "
                f"got {pack.num_tensors}"
            )
        order = [i for group in pack.groups for i in group]
        seen = jnp.concatenate([seen, theta["embedding"][jnp.asarray(order)]], 1)
    outputs = policy.apply_network(theta["network"], seen)
    prior, available = combination.prior, combination.available(pack)
    return policy.decide(prior, outputs, available, pack.specs, step, num_steps)
