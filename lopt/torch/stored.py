"""State that is kept in half the memory; pairs lopt/optimizers/stored.py, which says why.

What bfloat16 rounds off it rounds by chance, a hash of the number and of the step, the
same as in jax, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lopt.specs import ParamSpec
from lopt.torch import shards
from lopt.torch.rule import Rule, State

StateDtype = Literal["float32", "bfloat16"]

_ODD = (0x9E3779B1 - 2**32, 0x85EBCA6B - 2**32)
"""As int32, whose products wrap around like those of uint32."""


def rounded(x: Tensor, step: int) -> Tensor:
    """`x` in float32 as bfloat16, rounded by chance to one of its two neighbors there.

    Args:
      x: float32; what is not finite stays as it is.
      step: how many updates led to it.
    """
    bits = x.contiguous().view(torch.int32)
    salt = (step * (_ODD[1] % 2**32) + 2**31) % 2**32 - 2**31
    chance = torch.bitwise_xor(bits, salt).mul_(_ODD[0])
    up = chance.bitwise_right_shift_(16).bitwise_and_(0xFFFF).add_(bits)
    kept = up.bitwise_and_(-0x10000).view(torch.float32)
    return torch.where(torch.isfinite(x), kept, x).to(torch.bfloat16)


def stored(rule: Rule, state_dtype: StateDtype) -> Rule:
    """The rule, what it keeps of each tensor in this type between its updates.

    Args:
      rule: it updates each tensor by itself, and counts a "step".
      state_dtype: "float32": the rule as it is.
    """
    return rule if state_dtype == "float32" else _Stored(rule)


@dataclass(frozen=True)
class _Stored:
    rule: Rule
    reads_loss = False

    def init(self, params: Sequence[Tensor], specs: Sequence[ParamSpec]) -> State:
        state = self.rule.init(params, specs)
        narrow = [{k: x.bfloat16() for k, x in own.items()} for own in state.per_param]
        return state._replace(per_param=narrow)

    def update(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        loss: Tensor | None,
    ) -> list[Tensor]:
        step, updates = state.shared["step"], []
        tensors = zip(grads, state.specs, state.per_param, params, strict=True)
        for g, spec, kept, p in tensors:
            # One at a time, so that no more than one tensor's state is ever widened.
            wide = {name: x.float() for name, x in kept.items()}
            alone = State((spec,), {"step": step.clone()}, [wide])
            updates += self.rule.update([g], alone, [p], loss)
            for name, x in wide.items():
                own = rounded(shards.local(x), int(step) + 1)
                shards.local(kept[name]).copy_(own)
        step += 1
        return updates
