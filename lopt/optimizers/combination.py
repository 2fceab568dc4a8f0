"""What `layerwise` blends and mixes, built from its options, which are checked here."""

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, NamedTuple

from lopt import checks
from lopt.bases import BASES, NEED_MORE, Base
from lopt.config import BrokenRule
from lopt.errors import unknown_name
from lopt.optimizers import policy
from lopt.packing import Packing


class Combination(NamedTuple):
    """What is blended and mixed, and the policy that theta corrects."""

    table: tuple[Base, ...]
    decays: tuple[float, ...]
    prior: policy.Prior

    def available(self, pack: Packing) -> list[list[bool]]:
        """For each tensor, which of the bases it has."""
        return [[base.applies(spec) for base in self.table] for spec in pack.specs]


def combination_of(options: Mapping[str, Any]) -> Combination:
    """The same from all options of the factory `layerwise`, those of others left out."""
    return combine(**{name: options[name] for name in signature(combine).parameters})


def combine(
    bases: Sequence[str],
    momenta: Sequence[float],
    learning_rate: float,
    decay_steps: float,
    final: float,
    weight_decay: float,
    logit_scale: float,
    decay_gain: float,
    prior_logits: Mapping[str, float],
    prior_blend: Sequence[float],
) -> Combination:
    """A combination with these options; `layerwise` says what they are.

    Raises:
      ConfigError: an option out of range, an unknown base, or no base for vectors.
    """
    checks.check_positive(
        learning_rate=learning_rate,
        decay_steps=decay_steps,
        logit_scale=logit_scale,
        decay_gain=decay_gain,
    )
    checks.check_not_negative(final=final, weight_decay=weight_decay)
    for name in bases:
        if name in NEED_MORE:
            rule = f"need nothing but gradients: `{name}` needs {NEED_MORE[name]}"
            known = ", ".join(f"`{known}`" for known in BASES)
            raise BrokenRule("bases", rule, list(bases), hint=f"there are {known}")
        if name not in BASES:
            raise unknown_name("base in `bases`", name, BASES)
    for name in prior_logits:
        if name not in BASES:
            raise unknown_name("base in `prior_logits`", name, BASES)
    table = tuple(BASES[name]() for name in bases)
    if not any(base.kind == "entrywise" for base in table):
        rule = "hold one that fits vectors"
        raise BrokenRule("bases", rule, list(bases), hint="add `adam`")
    checks.check_blend(momenta, prior_blend)
    logits = tuple(float(prior_logits.get(name, 0.0)) for name in bases)
    prior = policy.Prior(
        learning_rate,
        decay_steps,
        final,
        weight_decay,
        logit_scale,
        decay_gain,
        logits,
        tuple(prior_blend),
    )
    return Combination(table, tuple(momenta), prior)
