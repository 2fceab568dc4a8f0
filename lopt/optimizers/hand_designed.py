"""Hand-designed optimizers, in the form of learned ones.

Their theta are their hyperparameters, so they run in the same inner loop, and all
trials of a search in one program:

    Δφ = −η_t (m d + ω φ),  ω = `weight_decay` on matrices, 0 elsewhere,

with d a base's raw direction, m its muP multiplier (1 at the base width: "muAdam") and
η_t = `learning_rate` times a schedule: a linear warm-up over the first 5 % of the run,
then a cosine to zero, or constant where `constant` is 1. SGD has no multiplier: its
steps are proportional to gradients, and its rate is tuned anew for every width.

Muon orthogonalizes matrices, at RMS 0.2 like Adam's, and leaves the rest to Adam (Liu
et al., Muon is scalable for LLM training, 2025).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lopt import mup
from lopt.base import Array, LearnedOptimizer, MetaParams, PRNGKey, Specs
from lopt.bases import BASES, Base
from lopt.packing import Packing, Stacks, packing

WARMUP = 0.05
"""Fraction of the run over which the rate rises."""

MUON_RMS = 0.2
"""RMS of Muon's update of a matrix, about that of an update of Adam."""


def hyperparameters(key: PRNGKey) -> MetaParams:
    """Theta of a hand-designed optimizer, all zero."""
    del key
    return {name: jnp.zeros(()) for name in ("learning_rate", "weight_decay", "constant")}


class RuleState(NamedTuple):
    """What a hand-designed optimizer carries from step to step."""

    step: Array  # shape=[], int32
    bases: tuple[Any, ...]  # each base's state, over stacks


Schedule = Callable[[MetaParams, Array, Array], Array]
"""`(theta, step [], num_steps []) -> η_t []`."""
Directions = Callable[[tuple[Base, ...], Packing, tuple[Stacks, ...]], Stacks]
"""Raw directions of every base -> the one direction that is followed."""


def warmup_cosine(theta: MetaParams, step: Array, num_steps: Array) -> Array:
    """η_t: linear warm-up, then cosine to 0 at `num_steps`, or constant."""
    warmup = jnp.maximum(jnp.ceil(WARMUP * num_steps), 1.0)
    rise = jnp.minimum((step + 1) / warmup, 1.0)
    progress = (step - warmup) / jnp.maximum(num_steps - warmup, 1.0)
    cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
    fall = jnp.where(theta["constant"] > 0.5, 1.0, cosine)
    return theta["learning_rate"] * rise * fall


def rule(
    bases: tuple[str, ...], directions: Directions, schedule: Schedule
) -> LearnedOptimizer:
    """The optimizer −η_t (m d + ω φ); its theta are its hyperparameters."""

    def opt_fn(
        theta: MetaParams,
        *,
        specs: Specs | None = None,
        num_steps: ArrayLike | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        if num_steps is None:
            raise TypeError("a schedule needs `num_steps`, the length of the run")
        total = jnp.asarray(num_steps, jnp.float32)
        table = tuple(BASES[name]() for name in bases)

        def layout(params) -> Packing:
            return packing(mup.infer_specs(params) if specs is None else specs)

        def init_fn(params) -> RuleState:
            pack = layout(params)
            stacks = pack.pack(params)
            states = tuple(base.start(stacks, pack) for base in table)
            return RuleState(jnp.zeros((), jnp.int32), states)

        def update_fn(updates, state, params=None, **extra_args):
            del extra_args
            if params is None:
                raise ValueError("decay needs the parameters: update(g, state, params)")
            pack = layout(params)
            g, p = pack.pack(updates), pack.pack(params)
            steps = [
                base.follow(g, s, state.step, pack)
                for base, s in zip(table, state.bases, strict=True)
            ]
            raw: tuple[Any, ...] = tuple(step for step, _ in steps)
            d = directions(table, pack, raw)
            rate = schedule(theta, state.step.astype(jnp.float32), total)
            updates = pack.unpack(_decayed(pack, d, p, rate, theta), params)
            return updates, RuleState(state.step + 1, tuple(s for _, s in steps))

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(hyperparameters, opt_fn)


def _decayed(
    pack: Packing, direction: Stacks, params: Stacks, rate: Array, theta: MetaParams
) -> Stacks:
    """−η (d + ω φ) on matrices, −η d elsewhere."""
    out = []
    for d, p, spec in zip(direction, params, pack.group_specs, strict=True):
        out.append(-rate * (d + theta["weight_decay"] * p if spec.is_matrix else d))
    return tuple(out)


def _multiplied(pack: Packing, stacks: Stacks, kinds: list[mup.Kind]) -> Stacks:
    """Each tensor times its muP multiplier for the kind of its stack's direction."""
    group_of: list[mup.Kind] = []
    for kind, group in zip(kinds, pack.groups, strict=True):
        group_of.extend(kind for _ in group)
    values = [
        mup.update_multiplier(spec, kind)
        for spec, kind in zip(pack.specs, group_of, strict=True)
    ]
    if all(value == 1.0 for value in values):
        return stacks
    factors = pack.spread(jnp.asarray(values, jnp.float32))
    return tuple(d * m for d, m in zip(stacks, factors, strict=True))


def _plain(table: tuple[Base, ...], pack: Packing, raw: tuple[Stacks, ...]) -> Stacks:
    """The direction as it is, no multipliers."""
    del table, pack
    (direction,) = raw
    return direction


def _entrywise(table: tuple[Base, ...], pack: Packing, raw: tuple[Stacks, ...]) -> Stacks:
    """The one base's direction, with multipliers."""
    del table
    (direction,) = raw
    return _multiplied(pack, direction, ["entrywise"] * len(pack.groups))


def _orthogonalized(rms: float) -> Directions:
    """Matrices orthogonalized, the rest by the second base."""

    def directions(table, pack, raw):
        matrices, others = raw
        chosen: list[Array] = []
        kinds: list[mup.Kind] = []
        for m, d, spec in zip(matrices, others, pack.group_specs, strict=True):
            use = table[0].applies(spec)
            chosen.append(rms * m if use else d)
            kinds.append("orthogonalized" if use else "entrywise")
        return _multiplied(pack, tuple(chosen), kinds)

    return directions


_ADAM = rule(("adam",), _entrywise, warmup_cosine)
"""Shared by Adam and AdamW, which then share their compiled programs."""

HAND_DESIGNED: dict[str, LearnedOptimizer] = {
    "sgd": rule(("sgd",), _plain, warmup_cosine),
    "adam": _ADAM,
    "adamw": _ADAM,
    "lion": rule(("lion",), _entrywise, warmup_cosine),
    "muon": rule(("muon", "adam"), _orthogonalized(MUON_RMS), warmup_cosine),
}
"""By name; theta are `learning_rate`, `weight_decay` and `constant` (0 or 1), all []."""
