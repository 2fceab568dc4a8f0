"""The per-parameter MLP on factored second moments; pairs lopt/optimizers/adafac_mlp.py.

References:
  Metz, Freeman, Harrison, Maheswaranathan, Sohl-Dickstein, Practical tradeoffs between
  memory, compute, and performance in learned optimizers, 2022, arXiv 2203.11860.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lopt import checks
from lopt.architecture import TIME_SCALES, Start, adafac_channels
from lopt.specs import ParamSpec, update_multiplier
from lopt.torch import features, network, shards
from lopt.torch.features import Piece
from lopt.torch.moments import Axes, own, start_moments, update_moments
from lopt.torch.network import Channels
from lopt.torch.packing import packing
from lopt.torch.rule import Rule, State, Theta
from lopt.torch.shards import layout_of
from lopt.torch.stacks import Stack, stacks
from lopt.torch.stored import StateDtype, narrowed
from lopt.torch.theta import check_theta, network_shapes


def adafac_mlp(
    theta: Theta,
    *,
    num_steps: int | None = None,
    hidden_sizes: Sequence[int] = (4, 4),
    momentum_decays: Sequence[float] = (0.9, 0.99, 0.999),
    rms_decays: Sequence[float] = (0.999,),
    factored_decays: Sequence[float] = (0.9, 0.99, 0.999),
    step_mult: float = 0.001,
    exp_mult: float = 0.001,
    eps: float = 1e-5,
    state_dtype: StateDtype = "float32",
    start: Start = "random",
) -> Rule:
    """p ← p - λ · step_mult · a · exp(exp_mult · b), for outputs (a, b) of the network.

    Options are those of the pair.

    Raises:
      BrokenRule: an option is out of range.
      CheckpointError: theta is not of these options.
    """
    del num_steps, start
    checks.check_positive(step_mult=step_mult, eps=eps)
    initial = {
        "momentum_decays": momentum_decays,
        "rms_decays": rms_decays,
        "factored_decays": factored_decays,
    }
    checks.check_decays(**initial)
    checks.check_counts(
        momentum_decays, rms_decays=rms_decays, factored_decays=factored_decays
    )
    num_inputs = adafac_channels(*map(len, initial.values())) + len(TIME_SCALES)
    layers = network_shapes(num_inputs, *hidden_sizes, 2)
    counts = {name: (len(d),) for name, d in initial.items()}
    check_theta(theta, {**counts, "network": layers})
    decays = [features.learned_decays(d, theta[name]) for name, d in initial.items()]
    settings = step_mult, exp_mult, eps, state_dtype
    return _AdafacMlp(theta["network"], tuple(decays), *settings)


@dataclass(frozen=True)
class _AdafacMlp:
    network: dict[str, Tensor]
    decays: tuple[Tensor, ...]  # of momenta, second moments and factored ones
    step_mult: float
    exp_mult: float
    eps: float
    state_dtype: StateDtype
    reads_loss = False

    def init(self, params: Sequence[Tensor], specs: Sequence[ParamSpec]) -> State:
        tensors = [
            start_moments(p, self.decays, features.factored_axes(spec))
            for p, spec in zip(params, specs, strict=True)
        ]
        state = State(tuple(specs), {"step": features.start_step()}, tensors)
        return narrowed(state, self.state_dtype)

    def update(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        loss: Tensor | None,
    ) -> list[Tensor]:
        del loss
        time = features.tanh_time_features(state.shared["step"], self.decays[0].device)
        pack, updates = packing(state.specs, params), []
        for x in stacks(pack, grads, state, params):
            axes = features.factored_axes(x.spec)
            update_moments(x.kept, x.g, self.decays, axes)
            size = -update_multiplier(x.spec, "entrywise") * self.step_mult
            settings = time, self.eps, size, self.exp_mult
            updates.append(
                network.updated(self.network, _channels(x, axes), x.p, *settings)
            )
        state.shared["step"] += 1
        return pack.unpack(updates, params)


def _channels(stack: Stack, axes: Axes) -> Channels:
    """The channels of a stack, in the published order: see the pair's `channels`."""
    moments, layout = stack.kept, layout_of(stack.p)
    (m, r), g, p = own(moments), shards.local(stack.g), shards.local(stack.p)
    num_m, num_r = m.shape[1], r.shape[1]
    sizes = [1, 1, num_m, num_r, num_m, num_r]

    def write(piece: Piece, x: Tensor) -> None:
        own_g, own_p, own_m, own_r, product, inverse, rest = x.split(
            [*sizes, x.shape[1] - sum(sizes)], dim=1
        )
        own_g.copy_(g[piece][:, None])
        own_p.copy_(p[piece][:, None])
        own_m.copy_(features.part(m, piece))
        own_r.copy_(features.part(r, piece))
        torch.add(own_r, 1e-6, out=inverse).rsqrt_()
        torch.mul(own_m, inverse, out=product)
        write_rest(piece, own_g, own_m, rest)

    if axes is None:
        write_rest = _full(shards.local(moments["full"]))
        return Channels(write)
    edges = [moments["row"], moments["col"]]
    edges += [torch.rsqrt(x + 1e-8) for x in edges]
    factors = features.reciprocal_root_factors(moments, axes[0])
    write_rest = _factored(*(shards.cut(x, layout) for x in factors))
    return Channels(write, [shards.cut(x, layout) for x in edges], num_after=num_m)


_Write = Callable[[Piece, Tensor, Tensor, Tensor], None]
"""Writes a piece's last channels, for g [., 1, *s] and m [., M, *s], to their place."""


def _full(full: Tensor) -> _Write:
    """Where the tensor is not factored, V stands for both R and C."""

    def write(piece: Piece, g: Tensor, m: Tensor, x: Tensor) -> None:
        v = features.part(full, piece)
        root = torch.rsqrt(v + 1e-8)
        preconditioned = g * features.reciprocal_root(v)
        moment = m * torch.rsqrt(v + 1e-6)
        torch.cat([preconditioned, v, v, root, root, moment], dim=1, out=x)

    return write


def _factored(rho: Tensor, kappa: Tensor) -> _Write:
    """g ρ κ and m ρ κ."""

    def write(piece: Piece, g: Tensor, m: Tensor, x: Tensor) -> None:
        factor, moment = x.split([rho.shape[1], m.shape[1]], dim=1)
        torch.mul(features.part(rho, piece), features.part(kappa, piece), out=factor)
        torch.mul(m, factor, out=moment)
        factor.mul_(g)

    return write
