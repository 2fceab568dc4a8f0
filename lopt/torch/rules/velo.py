"""VeLO: a recurrent network of tensors mixes networks; pairs lopt/optimizers/velo.py.

References:
  Metz, Harrison, Freeman, Merchant, Beyer, Bradbury, Agrawal, Poole, Mordatch, Roberts,
  Sohl-Dickstein, VeLO: training versatile learned optimizers by scaling up, 2022, arXiv
  2211.09760.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lopt import checks
from lopt.architecture import CLIP, NUM_COURSE, velo_channels
from lopt.specs import ParamSpec, update_multiplier
from lopt.torch import course, features, network, recurrent, shards
from lopt.torch.channels import channels, seen
from lopt.torch.moments import start_moments, update_moments
from lopt.torch.rule import Rule, State, Theta
from lopt.torch.theta import (
    check_theta,
    linear_shapes,
    lstm_shapes,
    network_shapes,
)

EPS = 1e-5
"""Added to the mean squares that channels are normalized by."""
MIXTURE_SCALE = 100.0
MOMENTUM_DECAYS = FACTORED_DECAYS = (0.9, 0.99, 0.999)
RMS_DECAYS = (0.999,)
_MOST_AXES = 4
NUM_INPUTS = NUM_COURSE + 1 + (1 + _MOST_AXES) + 2 * len(MOMENTUM_DECAYS)


class Controls(NamedTuple):
    """What the recurrent network says of every one of T tensors."""

    mixture: Tensor  # shape=[T, K], of the bank's networks
    step_mult: Tensor  # shape=[T]


_Inputs = Callable[[Tensor, Sequence[Tensor], Sequence[dict[str, Tensor]]], Tensor]
"""`(run [18], tensors, their moments before this step) -> what the LSTM sees [T, .]`."""


def velo(
    theta: Theta,
    *,
    num_steps: int | None = None,
    hidden_size: int = 128,
    num_networks: int = 64,
    hidden_sizes: Sequence[int] = (4, 4),
    step_mult: float = 0.001,
    exp_mult: float = 0.001,
    loss_horizon: int | None = None,
    keeps_lstm_state: bool = True,
) -> Rule:
    """p ← p - λ · s · step_mult · a · exp(exp_mult · b) · √(mean(p²) + 1e-9).

    Options are those of the pair.

    Raises:
      BrokenRule: an option is out of range.
      CheckpointError: theta is not of these options.
      TypeError: no `num_steps`.
    """

    def controls(h: Tensor) -> Controls:
        mixture = MIXTURE_SCALE * recurrent.linear(theta["controls"], h) / num_networks
        return Controls(mixture, recurrent.linear(theta["step_size"], h)[:, 0])

    return mixture_rule(
        theta,
        num_steps,
        tensor_inputs,
        controls,
        num_inputs=NUM_INPUTS,
        hidden_size=hidden_size,
        num_networks=num_networks,
        hidden_sizes=hidden_sizes,
        step_mult=step_mult,
        exp_mult=exp_mult,
        loss_horizon=loss_horizon,
        keeps_lstm_state=keeps_lstm_state,
    )


def mixture_rule(
    theta: Theta,
    num_steps: int | None,
    inputs: _Inputs,
    controls: Callable[[Tensor], Controls],
    *,
    num_inputs: int,
    hidden_size: int,
    num_networks: int,
    hidden_sizes: Sequence[int],
    step_mult: float,
    exp_mult: float,
    loss_horizon: int | None = None,
    keeps_lstm_state: bool = True,
) -> Rule:
    """What VeLO and Celo share.

    Args:
      theta: of either.
      num_steps: the length of the run.
      inputs: what the LSTM sees.
      controls: of the LSTM's output [T, H].
      num_inputs: of the LSTM for each tensor.
      hidden_size: and all that follow: as in `velo`.
    """
    checks.check_positive(step_mult=step_mult, exp_mult=exp_mult)
    if loss_horizon is not None:
        checks.check_integers(10, loss_horizon=loss_horizon)
    if num_steps is None:
        raise TypeError("this optimizer needs `num_steps`, the length of the run")
    lists = MOMENTUM_DECAYS, RMS_DECAYS, FACTORED_DECAYS
    bank = network_shapes(velo_channels(*map(len, lists)), *hidden_sizes, 3)
    shapes = {
        "network": {name: (num_networks, *shape) for name, shape in bank.items()},
        "shared": linear_shapes(num_inputs, hidden_size),
        "own": linear_shapes(num_inputs, hidden_size),
        "lstm": lstm_shapes(hidden_size, hidden_size),
        "controls": linear_shapes(hidden_size, num_networks),
        "step_size": linear_shapes(hidden_size, 1),
    }
    check_theta(theta, shapes)
    bias = theta["step_size"]["b"]
    return _Mixture(
        theta,
        tuple(bias.new_tensor(decays) for decays in lists),
        num_steps,
        num_steps if loss_horizon is None else loss_horizon,
        inputs,
        controls,
        step_mult,
        exp_mult,
        keeps_lstm_state,
    )


@dataclass(frozen=True)
class _Mixture:
    theta: Theta
    decays: tuple[Tensor, ...]
    num_steps: int
    horizon: int
    inputs: _Inputs
    controls: Callable[[Tensor], Controls]
    step_mult: float
    exp_mult: float
    keeps_lstm_state: bool
    reads_loss = True

    def init(self, params: Sequence[Tensor], specs: Sequence[ParamSpec]) -> State:
        tensors = [
            start_moments(p, self.decays, features.factored_axes(spec))
            | recurrent.start_lstm(self.theta["lstm"])
            for p, spec in zip(params, specs, strict=True)
        ]
        losses = course.start_losses(self.decays[0].device)
        shared = {"step": features.start_step(), **losses}
        return State(tuple(specs), shared, tensors)

    def update(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        loss: Tensor | None,
    ) -> list[Tensor]:
        step = int(state.shared["step"])
        course.add_loss(state.shared, loss, step, self.horizon)
        state.shared["step"] += 1
        updates = [torch.zeros_like(p, dtype=torch.float32) for p in params]
        full = [i for i, p in enumerate(params) if p.numel()]
        if not full:
            return updates
        told = self._told([params[i] for i in full], state, full, step)
        networks = {
            name: torch.tensordot(told.mixture, bank, dims=1)
            for name, bank in self.theta["network"].items()
        }
        for row, i in enumerate(full):
            own = {name: weights[row] for name, weights in networks.items()}
            size = -self.step_mult * told.step_mult[row]
            updates[i] = self._update(grads[i], state, params[i], i, own, size)
        return updates

    def _told(
        self, params: list[Tensor], state: State, full: Sequence[int], step: int
    ) -> Controls:
        """What the LSTM says of the tensors that have elements."""
        device = self.decays[0].device
        fractions = course.fraction_features(step, self.num_steps, device)
        losses = course.loss_features(state.shared, step + 1, self.horizon)
        rows = [state.per_param[i] for i in full]
        x = self.inputs(torch.cat([fractions, losses]), params, rows)
        everyone = recurrent.linear(self.theta["shared"], x).relu().amax(0)
        seen = recurrent.linear(self.theta["own"], x) + everyone
        kept = rows if self.keeps_lstm_state else [dict(row) for row in rows]
        return self.controls(recurrent.lstm(self.theta["lstm"], seen, kept))

    def _update(
        self,
        g: Tensor,
        state: State,
        p: Tensor,
        i: int,
        own: Theta,
        size: Tensor,
    ) -> Tensor:
        """The update of one tensor by its own network."""
        spec, moments = state.specs[i], state.per_param[i]
        axes = features.factored_axes(spec)
        g = g.clamp(-CLIP, CLIP)
        update_moments(moments, g, self.decays, axes)
        size = size * torch.sqrt(shards.mean(p * p) + 1e-9)
        size = size * update_multiplier(spec, "relative")
        sees = channels(seen(g, p, moments, axes), eps=1e-6, repeats=True)
        none = own["b0"].new_zeros(0)
        return network.updated(own, sees, p, none, EPS, size, self.exp_mult)


def tensor_inputs(
    run: Tensor, params: Sequence[Tensor], moments: Sequence[dict[str, Tensor]]
) -> Tensor:
    """What the LSTM sees, [T, 30]: the run [18], then of every tensor 12 statistics."""
    return torch.stack(
        [
            torch.cat([run, _statistics(p, m)])
            for p, m in zip(params, moments, strict=True)
        ]
    )


def _statistics(p: Tensor, moments: dict[str, Tensor]) -> Tensor:
    """The pair's `tensor_inputs` says what, of one tensor: [12]."""
    scale = torch.rsqrt(shards.mean(p * p).clamp(min=1e-9))
    (r,) = scale * moments["second_moments"]
    size = features.log_abs(10.0 * shards.mean(r))[None] / 2.0
    num_axes = min(sum(n > 1 for n in p.shape), _MOST_AXES + 1)
    places = [float(num_axes == i) for i in range(_MOST_AXES + 1)]
    of_m, of_r = [], []
    for m in moments["momenta"]:
        m = scale * m
        mean = shards.mean(m)
        of_m.append(shards.mean((m - mean).square()))
        of_r.append(shards.mean((r - mean).square()))
    variances = features.log_abs(10.0 * torch.stack([*of_m, *of_r])) / 2.0
    return torch.cat([size, size.new_tensor(places), variances])
