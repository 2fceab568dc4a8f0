"""RNNMLP: an LSTM of tensors and an MLP of elements; pairs lopt/optimizers/rnn_mlp.py.

There are no calls with validation losses in torch: the LSTM sees none.

References:
  Metz, Maheswaranathan, Freeman, Poole, Sohl-Dickstein, Tasks, stability, architecture,
  and compute: training more effective learned optimizers, and using them to train
  themselves, 2020, arXiv 2009.11243.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lopt import checks
from lopt.architecture import TIME_SCALES
from lopt.specs import ParamSpec, update_multiplier
from lopt.torch import features, network, recurrent, shards
from lopt.torch.features import Piece, log_abs
from lopt.torch.moments import own
from lopt.torch.network import Channels
from lopt.torch.rule import Rule, State, Theta
from lopt.torch.shards import layout_of
from lopt.torch.theta import (
    check_theta,
    linear_shapes,
    lstm_shapes,
    network_shapes,
)
from lopt.torch.threads import over_pieces

EPS = 1e-5
"""Added to the mean squares that channels are normalized by."""
TRAIN_DECAY, CLIP_DECAY = 0.9, 0.99
CLIP = 10.0
"""Gradients are clipped at so many times their usual size."""
MOST_AXES = 4


def rnn_mlp(
    theta: Theta,
    *,
    num_steps: int | None = None,
    hidden_size: int = 64,
    hidden_sizes: Sequence[int] = (32, 32),
    from_mlp: int = 16,
    from_lstm: int = 18,
    lstm_to_mlp: int = 17,
    decays: Sequence[float] = (0.5, 0.9, 0.99, 0.999, 0.9999),
    step_mult: float = 0.001,
    exp_mult: float = 0.01,
) -> Rule:
    """p ← p - λ · step_mult · a · exp(exp_mult · b); options are those of the pair.

    Raises:
      BrokenRule: an option is out of range.
      CheckpointError: theta is not of these options.
    """
    del num_steps
    checks.check_decays(decays=decays)
    checks.check_positive(step_mult=step_mult, exp_mult=exp_mult)
    num_channels = 3 + 4 * len(decays)
    num_shared = len(TIME_SCALES) + 3 + lstm_to_mlp
    sizes = num_channels + num_shared, *hidden_sizes, 2 + from_mlp
    shapes = {
        "network": network_shapes(*sizes),
        "lstm": lstm_shapes(from_lstm + from_mlp + 14 + MOST_AXES, hidden_size),
        "to_all": linear_shapes(hidden_size, from_lstm),
        "to_mlp": linear_shapes(hidden_size, lstm_to_mlp),
        "from_lstm": (from_lstm,),
        "from_mlp": (from_mlp,),
    }
    check_theta(theta, shapes)
    return _RnnMlp(theta, theta["from_lstm"].new_tensor(decays), step_mult, exp_mult)


@dataclass(frozen=True)
class _RnnMlp:
    theta: Theta
    decays: Tensor
    step_mult: float
    exp_mult: float
    reads_loss = True

    def init(self, params: Sequence[Tensor], specs: Sequence[ParamSpec]) -> State:
        num = len(self.decays)
        tensors = [
            {
                "momenta": features.zeros(p, num),
                "second_moments": features.zeros(p, num),
                "from_mlp": self.theta["from_mlp"].clone(),
                **recurrent.start_lstm(self.theta["lstm"]),
            }
            for p in params
        ]
        zero = self.decays.new_zeros(())
        shared = {
            "step": features.start_step(),
            "loss_mean": zero,
            "loss_variance": zero.clone(),
            "gradient_size": zero + 0.01,
            "from_lstm": self.theta["from_lstm"].clone(),
        }
        return State(tuple(specs), shared, tensors)

    def update(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        loss: Tensor | None,
    ) -> list[Tensor]:
        if loss is None:
            raise TypeError("this optimizer reads the loss: call `step(loss=loss)`")
        shared, step = state.shared, int(state.shared["step"])
        shared["loss_mean"].lerp_(loss, 1 - TRAIN_DECAY)
        deviation = (shared["loss_mean"] - loss).square()
        shared["loss_variance"].lerp_(deviation, 1 - TRAIN_DECAY)
        shared["step"] += 1
        updates = [torch.zeros_like(p, dtype=torch.float32) for p in params]
        full = [i for i, p in enumerate(params) if p.numel()]
        if not full:
            return updates
        clipped = _clip(shared, [grads[i] for i in full], step)
        rows, inputs = [state.per_param[i] for i in full], []
        told = _told(shared, loss, step + 1)
        for g, kept, i in zip(clipped, rows, full, strict=True):
            self._observe(g, kept)
            shape = [
                state.specs[i].shape[a] for a in features.kernel_axes(state.specs[i])
            ]
            seen = _tensor_inputs(g, params[i], kept, shape, told)
            inputs.append(torch.cat([shared["from_lstm"], kept["from_mlp"], seen]))
        hidden = recurrent.lstm(self.theta["lstm"], torch.stack(inputs), rows)
        shared["from_lstm"] = recurrent.linear(self.theta["to_all"], hidden).mean(0)
        to_mlp = recurrent.linear(self.theta["to_mlp"], hidden)
        for g, kept, i, message in zip(clipped, rows, full, to_mlp, strict=True):
            p = params[i]
            seen = torch.cat([_shared_inputs(step, len(full), p), message])
            size = -self.step_mult * update_multiplier(state.specs[i], "entrywise")
            updates[i] = self._update(g, kept, p, seen, size)
        return updates

    def _observe(self, g: Tensor, kept: dict[str, Tensor]) -> None:
        (m, r), g = own(kept), shards.local(g)

        def update(piece: Piece) -> None:
            features.update_momenta(features.part(m, piece), g[piece], self.decays)
            features.update_second_moments(features.part(r, piece), g[piece], self.decays)

        over_pieces(g, lambda: update)

    def _update(
        self, g: Tensor, kept: dict[str, Tensor], p: Tensor, seen: Tensor, size: float
    ) -> Tensor:
        """The update of a tensor, whose MLP tells the LSTM something for the next one."""
        (m, r), g = own(kept), shards.local(g)
        channels = _channels(g, shards.local(p), m, r)
        update = torch.empty_like(g, memory_format=torch.contiguous_format)

        def write(piece: Piece, y: Tensor) -> Tensor:
            a, b, *rest = y
            update[piece] = size * a * torch.exp(self.exp_mult * b)
            return torch.stack([x.sum() for x in rest])

        sums = network.outputs(self.theta["network"], channels, p, seen, EPS, write)
        total = sum(sums, torch.zeros_like(kept["from_mlp"]))
        kept["from_mlp"] = shards.added_up(total, layout_of(p)) / p.numel()
        return shards.joined(update, layout_of(p))


def _clip(shared: dict[str, Tensor], grads: list[Tensor], step: int) -> list[Tensor]:
    """Gradients clipped, element by element, at ten times their usual size."""
    size = shared["gradient_size"]
    most = CLIP * size / (1.0 - CLIP_DECAY ** (step + 1))
    clipped = [g.clamp(-most, most) for g in grads]
    squares = torch.stack([shards.mean(g * g) for g in clipped])
    size.lerp_(torch.sqrt(1e-8 + squares.mean()), 1 - CLIP_DECAY)
    return clipped


def _told(shared: dict[str, Tensor], loss: Tensor, num_losses: int) -> list[Tensor]:
    """The training loss, and no validation loss, in deviations of the former."""
    correction = 1.0 / (1.0 - TRAIN_DECAY**num_losses + 1e-8)
    scale = torch.rsqrt(correction * shared["loss_variance"] + 1e-8)
    mean = correction * shared["loss_mean"]
    return [((x - mean) * scale).clamp(-5.0, 5.0) for x in (loss, 0.0 * loss)]


def _tensor_inputs(
    g: Tensor,
    p: Tensor,
    kept: dict[str, Tensor],
    shape: Sequence[int],
    told: list[Tensor],
) -> Tensor:
    """What the LSTM sees of a tensor beside messages, [18]."""
    tensors = kept["momenta"], kept["second_moments"], p
    means = [shards.mean(x) for x in tensors]
    squares = [(x - mean).square() for x, mean in zip(tensors, means, strict=True)]
    sizes = [*shape, *[1] * MOST_AXES][:MOST_AXES]
    row = [
        log_abs(_norm(g)),
        1.0 if p.dim() == 0 else -1.0,
        *(y for x in means for y in (log_abs(x), x.sign())),
        log_abs(_norm(p)),
        *(math.log(n) - 1.0 for n in sizes),
        *told,
        *(log_abs(shards.mean(x)) for x in squares),
    ]
    return torch.stack([torch.as_tensor(x, device=told[0].device) for x in row]).float()


def _channels(g: Tensor, p: Tensor, m: Tensor, r: Tensor) -> Channels:
    """g, p, log |p|, m, r, m rsqrt(r), rsqrt(r)."""

    def write(piece: Piece, x: Tensor) -> None:
        m_, r_ = features.part(m, piece), features.part(r, piece)
        inverse = torch.rsqrt(r_ + 1e-6)
        log_p = torch.log(p[piece].abs() + 1e-8)
        own = [g[piece][None], p[piece][None], log_p[None]]
        torch.cat([*own, m_, r_, m_ * inverse, inverse], out=x)

    return Channels(write)


def _shared_inputs(step: int, num_tensors: int, p: Tensor) -> Tensor:
    """What all elements of a tensor see beside the message: sines of time, sizes."""
    device = shards.local(p).device
    scales = math.pi * torch.tensor(TIME_SCALES, dtype=torch.float32)
    time = torch.sin(step / scales).to(device)
    numbers = torch.tensor([math.log(num_tensors) - 1.0, math.log(p.numel())])
    many, number = numbers.to(device)
    return torch.cat([time, torch.stack([many, torch.log(_norm(p) + 1e-8), number])])


def _norm(x: Tensor) -> Tensor:
    return torch.sqrt(shards.whole((x * x).sum()))
