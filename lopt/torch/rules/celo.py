"""Celo: an update rule, and a schedule for it; pairs lopt/optimizers/celo.py.

References:
  Moudgil, Knyazev, Lajoie, Belilovsky, Celo: training versatile learned optimizers on a
  compute diet, 2025, arXiv 2501.12670.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lopt import checks
from lopt.architecture import NUM_COURSE, Start
from lopt.torch import recurrent
from lopt.torch.rule import Rule, Theta
from lopt.torch.rules.velo import Controls, mixture_rule
from lopt.torch.stacks import Stack


def celo(
    theta: Theta,
    *,
    num_steps: int | None = None,
    phase: int = 2,
    hidden_size: int = 64,
    num_networks: int = 1,
    hidden_sizes: Sequence[int] = (4, 4),
    step_mult: float = 0.001,
    exp_mult: float = 0.001,
    start: Start = "random",
) -> Rule:
    """p ← p - λ · s · step_mult · a · exp(exp_mult · b) · √(mean(p²) + 1e-9).

    Options are those of the pair.

    Raises:
      BrokenRule: an option is out of range.
      CheckpointError: theta is not of these options.
      TypeError: no `num_steps`.
    """
    del start
    checks.check_choices((1, 2), phase=phase)

    def controls(h: Tensor) -> Controls:
        mixture = torch.softmax(recurrent.linear(theta["controls"], h), 1) / num_networks
        steps = 0.1 * recurrent.linear(theta["step_size"], h)[:, 0].exp()
        return Controls(mixture, steps if phase == 2 else torch.ones_like(steps))

    return mixture_rule(
        theta,
        num_steps,
        run_alone,
        controls,
        num_inputs=NUM_COURSE,
        hidden_size=hidden_size,
        num_networks=num_networks,
        hidden_sizes=hidden_sizes,
        step_mult=step_mult,
        exp_mult=exp_mult,
    )


def run_alone(run: Tensor, x: Stack) -> Tensor:
    """Every tensor sees the same."""
    return run.expand(len(x.p), len(run))
