"""A rule that sees gradients made finite; pairs lopt/optimizers/preprocessed.py.

References:
  Thérien, Joseph, Knyazev, Oyallon, Rish, Belilovsky, μLO: compute-efficient
  meta-generalization of learned optimizers, 2024, arXiv 2406.00153.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lopt import checks
from lopt.architecture import Start
from lopt.specs import ParamSpec
from lopt.torch import shards
from lopt.torch.rule import Rule, State, Theta
from lopt.torch.rules.adafac_mlp import adafac_mlp


def mup_adafac(
    theta: Theta,
    *,
    num_steps: int | None = None,
    hidden_sizes: Sequence[int] = (32, 32),
    momentum_decays: Sequence[float] = (0.9, 0.99, 0.999),
    rms_decays: Sequence[float] = (0.999,),
    factored_decays: Sequence[float] = (0.9, 0.99, 0.999),
    step_mult: float = 0.01,
    exp_mult: float = 0.001,
    clip_norm: float = 0.0,
    start: Start = "random",
) -> Rule:
    """`adafac_mlp`, gradients clipped first, then made finite; options as of the pair."""
    checks.check_not_negative(clip_norm=clip_norm)
    rule = adafac_mlp(
        theta,
        num_steps=num_steps,
        hidden_sizes=hidden_sizes,
        momentum_decays=momentum_decays,
        rms_decays=rms_decays,
        factored_decays=factored_decays,
        step_mult=step_mult,
        exp_mult=exp_mult,
        start=start,
    )
    return _Preprocessed(rule, clip_norm)


@dataclass(frozen=True)
class _Preprocessed:
    rule: Rule
    clip_norm: float  # 0: never
    reads_loss = False

    def init(self, params: Sequence[Tensor], specs: Sequence[ParamSpec]) -> State:
        return self.rule.init(params, specs)

    def update(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        loss: Tensor | None,
    ) -> list[Tensor]:
        if self.clip_norm and grads:
            squares = [shards.whole((g * g).sum()) for g in grads]
            norm = torch.stack(squares).sum().sqrt()
            scale = torch.where(norm < self.clip_norm, 1.0, self.clip_norm / norm)
            grads = [g * scale for g in grads]
        grads = [torch.nan_to_num(g) for g in grads]
        return self.rule.update(grads, state, params, loss)
