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
from lopt.architecture import TIME_SCALES, Start
from lopt.specs import ParamSpec, update_multiplier
from lopt.torch import features, network, recurrent, shards
from lopt.torch.features import Piece, log_abs
from lopt.torch.moments import own
from lopt.torch.network import Channels
from lopt.torch.packing import packing
from lopt.torch.rule import Rule, State, Theta
from lopt.torch.shards import layout_of
from lopt.torch.stacks import Stack, rows, stacks, with_elements
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
    start: Start = "random",
) -> Rule:
    """p ← p - λ · step_mult · a · exp(exp_mult · b); options are those of the pair.

    Raises:
      BrokenRule: an option is out of range.
      CheckpointError: theta is not of these options.
    """
    del num_steps, start
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
        shared = state.shared
        shared["loss_mean"].lerp_(loss, 1 - TRAIN_DECAY)
        deviation = (shared["loss_mean"] - loss).square()
        shared["loss_variance"].lerp_(deviation, 1 - TRAIN_DECAY)
        found = iter(self._updates(*with_elements(grads, state, params), loss))
        shared["step"] += 1
        return [next(found) if p.numel() else torch.zeros_like(p) for p in params]

    def _updates(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        loss: Tensor,
    ) -> list[Tensor]:
        """Of tensors that all have elements."""
        if not params:
            return []
        pack, shared = packing(state.specs, params), state.shared
        step = int(shared["step"])
        told = _told(shared, loss, step + 1)
        most = CLIP * shared["gradient_size"] / (1.0 - CLIP_DECAY ** (step + 1))
        squares, inputs = [], []
        for x in stacks(pack, grads, state, params):
            g = shards.local(x.g).clamp(-most, most)
            squares.append(shards.means(g * g, x.p))
            self._observe(g, x.kept)
            own = [shared["from_lstm"].expand(len(g), -1), x.kept["from_mlp"]]
            inputs.append(torch.cat([*own, _tensor_inputs(x, g, told)], dim=1))
        size = torch.sqrt(1e-8 + torch.cat(squares).mean())
        shared["gradient_size"].lerp_(size, 1 - CLIP_DECAY)
        kept = rows(pack, state)
        hidden = recurrent.lstm(self.theta["lstm"], torch.cat(inputs), kept)
        shared["from_lstm"] = recurrent.linear(self.theta["to_all"], hidden).mean(0)
        to_mlp = recurrent.linear(self.theta["to_mlp"], hidden)
        updates = []
        for x in stacks(pack, grads, state, params):
            seen = _shared_inputs(step, len(params), x)
            seen = torch.cat([seen, to_mlp[x.rows]], dim=1)
            g = shards.local(x.g).clamp(-most, most)
            updates.append(self._update(x, g, seen))
        return pack.unpack(updates, params)

    def _observe(self, g: Tensor, kept: dict[str, Tensor]) -> None:
        m, r = own(kept)

        def update(piece: Piece) -> None:
            features.update_momenta(features.part(m, piece), g[piece], self.decays)
            features.update_second_moments(features.part(r, piece), g[piece], self.decays)

        over_pieces(g, lambda: update)

    def _update(self, x: Stack, g: Tensor, seen: Tensor) -> Tensor:
        """The update of a stack, whose MLP tells the LSTM something for the next one."""
        m, r = own(x.kept)
        channels = _channels(g, shards.local(x.p), m, r)
        size = -self.step_mult * update_multiplier(x.spec, "entrywise")
        update = torch.empty_like(g, memory_format=torch.contiguous_format)

        def write(piece: Piece, y: Tensor) -> Tensor:
            a, b = y[:, 0], y[:, 1]
            update[piece] = size * a * torch.exp(self.exp_mult * b)
            return features.flat(y[:, 2:]).sum(2)

        settings = channels, x.p, seen, EPS, write
        parts = network.outputs(self.theta["network"], *settings)
        total = features.sums(g, parts, x.kept["from_mlp"].shape[1])
        num = math.prod(x.spec.shape)
        x.kept["from_mlp"] = shards.added_up(total, layout_of(x.p)) / num
        return update


def _told(shared: dict[str, Tensor], loss: Tensor, num_losses: int) -> Tensor:
    """The training loss, and no validation loss, in deviations of the former."""
    correction = 1.0 / (1.0 - TRAIN_DECAY**num_losses + 1e-8)
    scale = torch.rsqrt(correction * shared["loss_variance"] + 1e-8)
    mean = correction * shared["loss_mean"]
    return ((torch.stack([loss, 0.0 * loss]) - mean) * scale).clamp(-5.0, 5.0)


def _tensor_inputs(x: Stack, g: Tensor, told: Tensor) -> Tensor:
    """What the LSTM sees of each tensor beside messages, [G, 18]."""
    tensors = *own(x.kept), shards.local(x.p)[:, None]
    means = [_mean(y, x) for y in tensors]
    centers = [features.along(mean, x.p.dim()) for mean in means]
    pairs = zip(tensors, centers, strict=True)
    squares = [_mean((y - mean).square(), x) for y, mean in pairs]
    shape = [x.spec.shape[axis] for axis in features.kernel_axes(x.spec)]
    sizes = [*shape, *[1] * MOST_AXES][:MOST_AXES]
    of_all = torch.cat([torch.tensor([math.log(n) - 1.0 for n in sizes]).to(told), told])
    is_scalar = told.new_full((len(g), 1), -1.0 if shape else 1.0)
    of_each = [y for mean in means for y in (log_abs(mean), mean.sign())]
    of_each.append(log_abs(_norm(shards.local(x.p), x)))
    return torch.cat(
        [
            log_abs(_norm(g, x))[:, None],
            is_scalar,
            torch.stack(of_each, dim=1),
            of_all.expand(len(g), -1),
            torch.stack([log_abs(y) for y in squares], dim=1),
        ],
        dim=1,
    )


def _channels(g: Tensor, p: Tensor, m: Tensor, r: Tensor) -> Channels:
    """g, p, log |p|, m, r, m rsqrt(r), rsqrt(r)."""

    def write(piece: Piece, x: Tensor) -> None:
        m_, r_ = features.part(m, piece), features.part(r, piece)
        inverse = torch.rsqrt(r_ + 1e-6)
        log_p = torch.log(p[piece].abs() + 1e-8)
        own = (y[:, None] for y in (g[piece], p[piece], log_p))
        torch.cat([*own, m_, r_, m_ * inverse, inverse], dim=1, out=x)

    return Channels(write)


def _shared_inputs(step: int, num_tensors: int, x: Stack) -> Tensor:
    """What all elements of a tensor see beside the message, [G, 14]: sines of time,
    sizes."""
    norms = torch.log(_norm(shards.local(x.p), x) + 1e-8)
    scales = math.pi * torch.tensor(TIME_SCALES, dtype=torch.float32)
    numbers = [math.log(num_tensors) - 1.0, math.log(math.prod(x.spec.shape))]
    of_all = torch.cat([torch.sin(step / scales), torch.tensor(numbers)]).to(norms)
    *time, number = of_all.expand(len(norms), -1).split([len(scales) + 1, 1], dim=1)
    return torch.cat([*time, norms[:, None], number], dim=1)


def _mean(y: Tensor, x: Stack) -> Tensor:
    """Of all entries of each tensor's statistics [G, k, *s], [G]."""
    return shards.means(y, x.p).mean(1)


def _norm(y: Tensor, x: Stack) -> Tensor:
    return torch.sqrt(math.prod(x.spec.shape) * shards.means(y * y, x.p))
