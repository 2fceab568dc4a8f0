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
from lopt.architecture import CLIP, NUM_COURSE, Start, velo_channels
from lopt.specs import ParamSpec, update_multiplier
from lopt.torch import course, features, network, recurrent, shards
from lopt.torch.channels import channels, seen
from lopt.torch.moments import own, start_moments, update_moments
from lopt.torch.packing import Packing, packing
from lopt.torch.rule import Rule, State, Theta
from lopt.torch.stacks import Stack, rows, stacks, with_elements
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


_Inputs = Callable[[Tensor, Stack], Tensor]
"""`(run [18], a stack before this step) -> what the LSTM sees of each tensor [G, .]`."""


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
        found = iter(self._updates(*with_elements(grads, state, params)))
        state.shared["step"] += 1
        return [next(found) if p.numel() else torch.zeros_like(p) for p in params]

    def _updates(
        self, grads: Sequence[Tensor], state: State, params: Sequence[Tensor]
    ) -> list[Tensor]:
        """Of tensors that all have elements."""
        if not params:
            return []
        pack, updates = packing(state.specs, params), []
        mixture, step_mult = self._told(pack, grads, state, params)
        networks = {
            name: torch.tensordot(mixture, bank, dims=1)
            for name, bank in self.theta["network"].items()
        }
        for x in stacks(pack, grads, state, params):
            weights = {name: w[x.rows] for name, w in networks.items()}
            updates.append(self._update(x, weights, -self.step_mult * step_mult[x.rows]))
        return pack.unpack(updates, params)

    def _told(
        self,
        pack: Packing,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
    ) -> Controls:
        """What the LSTM says of the tensors, in stack order."""
        step, device = int(state.shared["step"]), self.decays[0].device
        fractions = course.fraction_features(step, self.num_steps, device)
        losses = course.loss_features(state.shared, step + 1, self.horizon)
        run = torch.cat([fractions, losses])
        x = torch.cat([self.inputs(run, x) for x in stacks(pack, grads, state, params)])
        everyone = recurrent.linear(self.theta["shared"], x).relu().amax(0)
        seen = recurrent.linear(self.theta["own"], x) + everyone
        kept = rows(pack, state)
        kept = kept if self.keeps_lstm_state else [dict(row) for row in kept]
        return self.controls(recurrent.lstm(self.theta["lstm"], seen, kept))

    def _update(self, x: Stack, networks: Theta, size: Tensor) -> Tensor:
        """The update of a stack by each tensor's own network."""
        axes, p = features.factored_axes(x.spec), shards.local(x.p)
        g = x.g.clamp(-CLIP, CLIP)
        update_moments(x.kept, g, self.decays, axes)
        size = size * torch.sqrt(shards.means(p * p, x.p) + 1e-9)
        size = size * update_multiplier(x.spec, "relative")
        sees = channels(seen(g, x.p, x.kept, axes), eps=1e-6, repeats=True)
        none = size.new_zeros(0)
        return network.updated(networks, sees, x.p, none, EPS, size, self.exp_mult)


def tensor_inputs(run: Tensor, x: Stack) -> Tensor:
    """What the LSTM sees, [G, 30]: the run [18], then of every tensor 12 statistics.

    The pair's `tensor_inputs` says what they are.
    """
    p, (m, r) = shards.local(x.p), own(x.kept)
    scale = torch.rsqrt(shards.means(p * p, x.p).clamp(min=1e-9))
    scale = features.along(scale, p.dim() - 1)
    r = scale * r[:, 0]
    size = features.log_abs(10.0 * shards.means(r, x.p))[:, None] / 2.0
    num_axes = min(sum(n > 1 for n in x.spec.shape), _MOST_AXES + 1)
    places = size.new_tensor([float(num_axes == i) for i in range(_MOST_AXES + 1)])
    of_m, of_r = [], []
    for slower in m.unbind(1):
        slower = scale * slower
        mean = features.along(shards.means(slower, x.p), p.dim() - 1)
        of_m.append(shards.means((slower - mean).square(), x.p))
        of_r.append(shards.means((r - mean).square(), x.p))
    variances = features.log_abs(10.0 * torch.stack([*of_m, *of_r], dim=1)) / 2.0
    run, places = (y.expand(len(p), -1) for y in (run, places))
    return torch.cat([run, size, places, variances], dim=1)
