"""Hand-designed optimizers with learned numbers; pairs lopt/optimizers/learnable.py.

References:
  LearnableSGD, LearnableSGDM and LearnableAdam of google/learned_optimization, 2022.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lopt import checks
from lopt.specs import ROLES, Kind, ParamSpec, update_multiplier
from lopt.torch import features, shards
from lopt.torch.packing import packing
from lopt.torch.rule import Rule, State, Theta
from lopt.torch.stacks import stacks
from lopt.torch.theta import check_theta

Values = dict[str, Tensor]
"""Theta, or what of it is of a tensor's role: scalars."""
_Step = Callable[[Values, Tensor, Tensor, list[Tensor]], Tensor]
"""`(values, count [] from 1, gradient, accumulators) -> step`, to be subtracted;
accumulators are changed in place."""


def learnable_sgd(
    theta: Theta,
    *,
    num_steps: int | None = None,
    learning_rate: float = 0.01,
    per_role: bool = False,
) -> Rule:
    """p ← p - lr g; options are those of the pair."""
    _check(theta, per_role, "log_lr")
    del num_steps, learning_rate  # where theta starts

    def step(values: Values, count: Tensor, g: Tensor, acc: list[Tensor]) -> Tensor:
        del count, acc
        return values["log_lr"].exp() * g

    return _Learnable(theta, per_role, (), "gradient", step)


def learnable_sgdm(
    theta: Theta,
    *,
    num_steps: int | None = None,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    per_role: bool = False,
) -> Rule:
    """z ← g + β z, p ← p - lr z; options are those of the pair."""
    _check(theta, per_role, "log_lr", "log_one_minus_momentum")
    del num_steps, learning_rate, momentum

    def step(values: Values, count: Tensor, g: Tensor, acc: list[Tensor]) -> Tensor:
        del count
        (z,) = acc
        z.mul_(1.0 - values["log_one_minus_momentum"].exp()).add_(g)
        return values["log_lr"].exp() * z

    return _Learnable(theta, per_role, ("trace",), "gradient", step)


def learnable_adam(
    theta: Theta,
    *,
    num_steps: int | None = None,
    learning_rate: float = 0.001,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 1e-8,
    per_role: bool = False,
) -> Rule:
    """p ← p - lr μ̂ / (√(ν̂ + eps_root) + ε); options are those of the pair."""
    names = "log_lr", "log_one_minus_b1", "log_one_minus_b2", "log_eps"
    _check(theta, per_role, *names)
    checks.check_not_negative(eps_root=eps_root)
    del num_steps, learning_rate, b1, b2, eps

    def step(values: Values, count: Tensor, g: Tensor, acc: list[Tensor]) -> Tensor:
        b1 = 1.0 - values["log_one_minus_b1"].exp()
        b2 = 1.0 - values["log_one_minus_b2"].exp()
        mu, nu = acc
        mu.mul_(b1).add_((1.0 - b1) * g)
        nu.mul_(b2).add_((1.0 - b2) * g * g)
        root = (nu / (1.0 - b2**count) + eps_root).sqrt_() + values["log_eps"].exp()
        return values["log_lr"].exp() * mu / (1.0 - b1**count) / root

    return _Learnable(theta, per_role, ("mu", "nu"), "entrywise", step)


def _check(theta: Theta, per_role: bool, *names: str) -> None:
    shape = (len(ROLES),) if per_role else ()
    check_theta(theta, dict.fromkeys(names, shape))


@dataclass(frozen=True)
class _Learnable:
    theta: Theta
    per_role: bool
    accumulators: tuple[str, ...]
    kind: Kind
    step: _Step
    reads_loss = False

    def init(self, params: Sequence[Tensor], specs: Sequence[ParamSpec]) -> State:
        zeros = [
            {name: torch.zeros_like(p, dtype=torch.float32) for name in self.accumulators}
            for p in params
        ]
        return State(tuple(specs), {"step": features.start_step()}, zeros)

    def update(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        loss: Tensor | None,
    ) -> list[Tensor]:
        del loss
        state.shared["step"] += 1
        count = state.shared["step"].to(self.theta["log_lr"])
        pack, updates = packing(state.specs, params), []
        for x in stacks(pack, grads, state, params):
            accumulators = [shards.local(x.kept[name]) for name in self.accumulators]
            g = shards.local(x.g)
            step = self.step(self._values(x.spec), count, g, accumulators)
            updates.append(step.mul_(-update_multiplier(x.spec, self.kind)))
        return pack.unpack(updates, params)

    def _values(self, spec: ParamSpec) -> Values:
        if not self.per_role:
            return self.theta
        return {name: x[ROLES.index(spec.role)] for name, x in self.theta.items()}
