"""Adam whose hyperparameters an LSTM moves; pairs lopt/optimizers/nn_adam.py.

References:
  The learned optimizer of that name in google/learned_optimization, 2022.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lopt.specs import ParamSpec, update_multiplier
from lopt.torch import features, recurrent, shards
from lopt.torch.packing import packing
from lopt.torch.rule import Rule, State, Theta
from lopt.torch.stacks import Stack, rows, stacks
from lopt.torch.theta import check_theta, linear_shapes, lstm_shapes

NAMES = ("lr", "beta1", "beta2", "epsilon")
"""The hyperparameters, in the order of the LSTM's outputs."""

_NUM_INPUTS = 19
_MAX_GRADIENT = 1000.0


def nn_adam(
    theta: Theta,
    *,
    num_steps: int | None = None,
    hidden_size: int = 32,
    learning_rate: float = 0.001,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    output_scale: float = 0.01,
    decay_strength: float = 0.0,
) -> Rule:
    """Adam with per-tensor hyperparameters that an LSTM moves; options as of the pair.

    Raises:
      CheckpointError: theta is not of these options.
    """
    del num_steps, learning_rate, b1, b2, eps  # where theta starts
    shapes = {
        "initial": {name: () for name in NAMES},
        "lstm": lstm_shapes(_NUM_INPUTS, hidden_size),
        "controls": linear_shapes(hidden_size, len(NAMES)),
    }
    check_theta(theta, shapes)
    return _NNAdam(theta, output_scale, decay_strength)


@dataclass(frozen=True)
class _NNAdam:
    theta: Theta
    output_scale: float
    decay_strength: float
    reads_loss = False

    def init(self, params: Sequence[Tensor], specs: Sequence[ParamSpec]) -> State:
        initial = torch.stack([self.theta["initial"][name] for name in NAMES])
        tensors = [
            {
                "momentum": torch.zeros_like(p, dtype=torch.float32),
                "second_moment": torch.zeros_like(p, dtype=torch.float32),
                "raw": initial.clone(),  # of NAMES, before the map to its range
                **recurrent.start_lstm(self.theta["lstm"]),
            }
            for p in params
        ]
        return State(tuple(specs), {"step": features.start_step()}, tensors)

    def update(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        loss: Tensor | None,
    ) -> list[Tensor]:
        del loss
        pack = packing(state.specs, params)
        updates, inputs = [], []
        for x in stacks(pack, grads, state, params):
            g = shards.local(x.g).clamp(-_MAX_GRADIENT, _MAX_GRADIENT)
            m, r = (shards.local(x.kept[name]) for name in ("momentum", "second_moment"))
            raw = features.along(x.kept["raw"], g.dim() - 1).movedim(1, -1)
            lr, beta1, beta2, eps = _constrain(raw)
            m.mul_(beta1).add_((1.0 - beta1) * g)
            r.mul_(beta2).add_((1.0 - beta2) * g * g)
            scale = lr * (1.0 + eps) / (eps + torch.sqrt(r + 1e-10))
            updates.append(scale.mul_(m).mul_(-update_multiplier(x.spec, "entrywise")))
            inputs.append(_lstm_inputs(x, g, m, r))
        self._move(torch.cat(inputs), rows(pack, state))
        state.shared["step"] += 1
        return pack.unpack(updates, params)

    def _move(self, inputs: Tensor, tensors: Sequence[dict[str, Tensor]]) -> None:
        """Moves every tensor's raw hyperparameters, for the next step."""
        hidden = recurrent.lstm(self.theta["lstm"], inputs, tensors)
        moves = self.output_scale * recurrent.linear(self.theta["controls"], hidden)
        initial = torch.stack([self.theta["initial"][name] for name in NAMES])
        raw = torch.stack([kept["raw"] for kept in tensors]) + moves
        raw = raw - self.decay_strength * (raw - initial)
        # The round trip clips every raw value to what its range can express.
        raw = torch.stack(_unconstrain(_constrain(raw)), dim=-1)
        for kept, values in zip(tensors, raw, strict=True):
            kept["raw"].copy_(values)


def _constrain(raw: Tensor) -> list[Tensor]:
    """The hyperparameters that raw values [..., 4] stand for, each within its range."""
    lr, beta1, beta2, epsilon = (10.0 * raw).unbind(-1)
    return [
        lr.exp().clamp(1e-8, 1e3),
        1.0 - beta1.clamp(-10.0, 0.0).exp(),
        1.0 - beta2.clamp(-10.0, 0.0).exp(),
        epsilon.exp().clamp(1e-11, 1e4),
    ]


def _unconstrain(values: Sequence[Tensor]) -> list[Tensor]:
    """The inverse of `_constrain`; 1 - β is rounded as the published optimizer does."""
    lr, beta1, beta2, epsilon = values
    return [0.1 * torch.log(x) for x in (lr, 1.0 - beta1, 1.0 - beta2, epsilon)]


def _lstm_inputs(x: Stack, g: Tensor, m: Tensor, r: Tensor) -> Tensor:
    """What the LSTM sees of each tensor, [G, 19], of these g, clipped, and m and r."""
    tensors = g, m, shards.local(x.p), r
    scaled = x.kept["raw"].clamp(-5.0, 5.0) / 5.0
    is_vector, is_scalar = (
        scaled.new_full((len(g), 1), 1.0 if len(x.spec.shape) == n else -1.0)
        for n in (1, 0)
    )
    means = [shards.means(y, x.p) for y in tensors]
    signed = [y for mean in means for y in (_log(mean), mean.sign())]
    size = _log(shards.means(g.abs(), x.p))
    centers = [features.along(mean, g.dim() - 1) for mean in means]
    pairs = zip(tensors, centers, strict=True)
    variances = [_log(shards.means((y - mean).square(), x.p)) for y, mean in pairs]
    measured = torch.stack([*signed[:2], size, *signed[2:], *variances], dim=1)
    return torch.cat([scaled[:, 1:], is_vector, is_scalar, scaled[:, :1], measured], 1)


def _log(x: Tensor) -> Tensor:
    return features.log_abs(x) / 2.0
