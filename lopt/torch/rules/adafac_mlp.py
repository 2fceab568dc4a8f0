"""The per-parameter MLP on factored second moments; pairs lopt/optimizers/adafac_mlp.py.

References:
  Metz, Freeman, Harrison, Maheswaranathan, Sohl-Dickstein, Practical tradeoffs between
  memory, compute, and performance in learned optimizers, 2022, arXiv 2203.11860.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lopt.specs import ParamSpec
from lopt.torch import features, shards
from lopt.torch.features import Piece
from lopt.torch.rule import Rule, State, Theta
from lopt.torch.rules import network
from lopt.torch.rules.stored import stored


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
    state_dtype: str = "float32",
) -> Rule:
    """p ← p - λ · step_mult · a · exp(exp_mult · b), for outputs (a, b) of the network.

    Options are those of the pair.
    """
    del num_steps, hidden_sizes
    initial = {
        "momentum_decays": momentum_decays,
        "rms_decays": rms_decays,
        "factored_decays": factored_decays,
    }
    decays = [features.learned_decays(d, theta[name]) for name, d in initial.items()]
    rule = _AdafacMlp(
        theta["network"], tuple(decays), step_mult=step_mult, exp_mult=exp_mult, eps=eps
    )
    return stored(rule, state_dtype)


@dataclass(frozen=True)
class _AdafacMlp:
    network: dict[str, Tensor]
    decays: tuple[Tensor, ...]  # of momenta, second moments and factored ones
    step_mult: float
    exp_mult: float
    eps: float
    reads_loss = False

    def init(self, params: Sequence[Tensor], specs: Sequence[ParamSpec]) -> State:
        step = torch.zeros((), dtype=torch.int64, device=self.decays[0].device)
        tensors = [
            start_moments(p, spec, self.decays)
            for p, spec in zip(params, specs, strict=True)
        ]
        return State(tuple(specs), {"step": step}, tensors)

    def update(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        loss: Tensor | None,
    ) -> list[Tensor]:
        del loss
        time = features.tanh_time_features(state.shared["step"])
        tensors = zip(grads, state.per_param, params, state.specs, strict=True)
        updates = [self._update(*tensor, time) for tensor in tensors]
        state.shared["step"] += 1
        return updates

    def _update(
        self,
        g: Tensor,
        moments: dict[str, Tensor],
        p: Tensor,
        spec: ParamSpec,
        time: Tensor,
    ) -> Tensor:
        update_moments(moments, g, spec, self.decays)
        size = -network.multiplier(spec) * self.step_mult
        seen = _channels(shards.local(g), p, moments, spec)
        settings = (time, self.eps, size, self.exp_mult)
        return network.updated(self.network, seen, p, *settings)


def start_moments(
    p: Tensor, spec: ParamSpec, decays: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Zero momenta, second moments and factored ones of a tensor."""
    d_m, d_r, d_v = map(len, decays)
    return {
        "momenta": features.zeros(p, d_m),
        "second_moments": features.zeros(p, d_r),
        **features.init_factored_moment(p, d_v, features.factored_axes(spec)),
    }


def update_moments(
    moments: dict[str, Tensor], g: Tensor, spec: ParamSpec, decays: Sequence[Tensor]
) -> None:
    """The moments of `start_moments` with another gradient."""
    d_m, d_r, d_v = decays
    features.update_factored_moment(moments, g, d_v, features.factored_axes(spec))
    m, r = (shards.local(moments[name]) for name in ("momenta", "second_moments"))
    g = shards.local(g)
    for piece in features.pieces(g):
        features.update_momenta(features.part(m, piece), g[piece], d_m)
        features.update_second_moments(features.part(r, piece), g[piece], d_r)


def _channels(
    g: Tensor, p: Tensor, moments: dict[str, Tensor], spec: ParamSpec
) -> network.Channels:
    """The channels of a tensor, in the published order: see the pair's `channels`."""
    m, r = (shards.local(moments[name]) for name in ("momenta", "second_moments"))
    axes = features.factored_axes(spec)
    factored = _full(g, m, moments) if axes is None else _factored(g, m, p, moments, axes)
    values = shards.local(p)

    def channels(piece: Piece) -> list[Tensor]:
        m_, r_ = features.part(m, piece), features.part(r, piece)
        inverse = torch.rsqrt(r_ + 1e-6)
        own = [g[piece][None], values[piece][None], m_, r_, m_ * inverse, inverse]
        return [*own, *factored(piece)]

    return channels


def _full(g: Tensor, m: Tensor, moments: dict[str, Tensor]) -> network.Channels:
    """Where the tensor is not factored, V stands for both R and C."""
    full = shards.local(moments["full"])

    def channels(piece: Piece) -> list[Tensor]:
        m_, v = features.part(m, piece), features.part(full, piece)
        root = torch.rsqrt(v + 1e-8)
        preconditioned = g[piece][None] * features.reciprocal_root(v)
        return [preconditioned, v, v, root, root, m_ * torch.rsqrt(v + 1e-6)]

    return channels


def _factored(
    g: Tensor,
    m: Tensor,
    p: Tensor,
    moments: dict[str, Tensor],
    axes: tuple[int, int],
) -> network.Channels:
    """g ρ κ, R, C, rsqrt(R), rsqrt(C), m ρ κ."""
    rows_and_columns = moments["row"], moments["col"]
    roots = (torch.rsqrt(x + 1e-8) for x in rows_and_columns)
    factors = features.reciprocal_root_factors(moments, axes[0])
    whole = (*rows_and_columns, *roots, *factors)
    edges = [shards.share(x, p) for x in whole]

    def channels(piece: Piece) -> list[Tensor]:
        *seen, rho, kappa = (features.part(x, piece) for x in edges)
        factor = rho * kappa
        m_ = features.part(m, piece)
        return [g[piece][None] * factor, *seen, m_ * factor]

    return channels
