"""State that is kept in half the memory; pairs lopt/optimizers/stored.py."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lopt.specs import ParamSpec
from lopt.torch.rule import Rule, State

_ODD = (0x9E3779B1 - 2**32, 0x85EBCA6B - 2**32)
"""The pair's multipliers, as signed numbers: products wrap around alike."""


def stored(rule: Rule, state_dtype: str) -> Rule:
    """The rule, what it keeps of each tensor in this type between its updates.

    Args:
      rule: it updates each tensor by itself.
      state_dtype: "float32": the rule as it is.
    """
    return rule if state_dtype == "float32" else _Narrow(rule)


@dataclass(frozen=True)
class _Narrow:
    rule: Rule

    @property
    def reads_loss(self) -> bool:
        return self.rule.reads_loss

    def init(self, params: Sequence[Tensor], specs: Sequence[ParamSpec]) -> State:
        state = self.rule.init(params, specs)
        for tensors in state.per_param:
            _replace(tensors, {k: x.bfloat16() for k, x in tensors.items()})
        return state

    def update(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        loss: Tensor | None,
    ) -> list[Tensor]:
        step, updates = state.shared["step"].clone(), []
        for g, spec, kept, p in zip(
            grads, state.specs, state.per_param, params, strict=True
        ):
            # One at a time, so that no more than one tensor's state is ever widened.
            state.shared["step"].copy_(step)
            wide = {k: x.float() for k, x in kept.items()}
            alone = State((spec,), state.shared, [wide])
            updates += self.rule.update([g], alone, [p], loss)
            narrow = {k: rounded(x, step + 1).bfloat16() for k, x in wide.items()}
            _replace(kept, narrow)
        state.shared["step"].copy_(step + 1)
        return updates


def _replace(tensors: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    tensors.update(values)


def rounded(x: Tensor, step: Tensor) -> Tensor:
    """`x` in float32, rounded by chance to one of its two neighbors in bfloat16.

    What is not finite stays as it is.
    """
    bits = x.view(torch.int32)
    salt = (step * _ODD[1]).to(torch.int32)
    chance = ((bits ^ salt) * _ODD[0] >> 16) & 0xFFFF
    kept = ((bits + chance) & -0x10000).view(torch.float32)
    return torch.where(torch.isfinite(x), kept, x)
