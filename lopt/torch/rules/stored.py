"""State that is kept in half the memory; pairs lopt/optimizers/stored.py."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lopt.specs import ParamSpec
from lopt.torch import shards
from lopt.torch.rule import Rule, State
from lopt.torch.stored import rounded


def stored(rule: Rule, state_dtype: str) -> Rule:
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
