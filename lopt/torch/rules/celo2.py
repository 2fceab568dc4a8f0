"""Celo2: a direction of unit RMS, orthogonalized; pairs lopt/optimizers/celo2.py.

References:
  Moudgil, Knyazev, Belilovsky, Celo2: towards learned optimization free lunch, 2026,
  arXiv 2602.19142.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lopt import checks
from lopt.architecture import CLIP, velo_channels
from lopt.specs import ParamSpec, update_multiplier
from lopt.torch import features, network, shards
from lopt.torch.bases import orthogonalize as semi_orthogonal
from lopt.torch.channels import Seen, channels, seen
from lopt.torch.features import Piece
from lopt.torch.moments import start_moments, update_moments
from lopt.torch.rule import Rule, State, Theta
from lopt.torch.shards import layout_of
from lopt.torch.stored import StateDtype, stored
from lopt.torch.theta import check_theta, network_shapes

EPS = 1e-9
"""Added to the mean squares that inputs and output are normalized by."""
ADAM = (0.9, 0.95, 1e-8)
"""b1, b2 and ε."""


def celo2(
    theta: Theta,
    *,
    num_steps: int | None = None,
    hidden_sizes: Sequence[int] = (8, 8),
    momentum_decays: Sequence[float] = (0.9, 0.99, 0.999),
    rms_decays: Sequence[float] = (0.95,),
    factored_decays: Sequence[float] = (0.9, 0.99, 0.999),
    learning_rate: float = 0.001,
    vector_mult: float = 1.0,
    weight_decay: float = 0.0,
    schedule: Literal["constant", "cosine"] = "constant",
    orthogonalize: bool = True,
    vectors: Literal["adamw", "adam", "learned"] = "adamw",
    axes: Literal["specs", "last"] = "specs",
    state_dtype: StateDtype = "float32",
) -> Rule:
    """p ← p - η (λ u + ω p), for a direction u of unit RMS.

    Options are those of the pair.

    Raises:
      BrokenRule: an option is out of range.
      CheckpointError: theta is not of these options.
      TypeError: a cosine, and no `num_steps`.
    """
    checks.check_positive(learning_rate=learning_rate, vector_mult=vector_mult)
    checks.check_not_negative(weight_decay=weight_decay)
    decays = {
        "momentum_decays": momentum_decays,
        "rms_decays": rms_decays,
        "factored_decays": factored_decays,
    }
    checks.check_decays(**decays)
    checks.check_counts(**decays)
    if schedule == "cosine" and num_steps is None:
        raise TypeError("celo2 with a cosine needs `num_steps`, the length of a run")
    num_inputs = velo_channels(*map(len, decays.values()))
    check_theta(theta, {"network": network_shapes(num_inputs, *hidden_sizes, 3)})
    bias = theta["network"]["b0"]
    rule = _Celo2(
        theta["network"],
        tuple(bias.new_tensor(d) for d in decays.values()),
        num_steps if schedule == "cosine" else None,
        (learning_rate, learning_rate * vector_mult),
        weight_decay,
        orthogonalize,
        vectors,
        axes,
    )
    return stored(rule, state_dtype)


@dataclass(frozen=True)
class _Celo2:
    network: Theta
    decays: tuple[Tensor, ...]
    num_steps: int | None  # of a cosine
    rates: tuple[float, float]  # of what is learned, and of the others
    weight_decay: float
    orthogonalize: bool
    vectors: str
    axes: str
    reads_loss = False

    def init(self, params: Sequence[Tensor], specs: Sequence[ParamSpec]) -> State:
        tensors = [self._start(p, spec) for p, spec in zip(params, specs, strict=True)]
        return State(tuple(specs), {"step": features.start_step()}, tensors)

    def update(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        loss: Tensor | None,
    ) -> list[Tensor]:
        del loss
        step, updates = int(state.shared["step"]), []
        course = 1.0
        if self.num_steps is not None:
            place = min(step / self.num_steps, 1.0)
            course = 0.5 * (1 + math.cos(math.pi * place))
        for g, kept, p, spec in zip(
            grads, state.per_param, params, state.specs, strict=True
        ):
            is_learned = "momenta" in kept
            rate = course * self.rates[0 if is_learned else 1]
            if is_learned:
                u = self._direction(g, kept, p, spec)
            else:
                u = _adam(g, kept, step + 1, is_corrected=self.vectors == "adamw")
            updates.append(-rate * (u + self.weight_decay * p))
        state.shared["step"] += 1
        return updates

    def _start(self, p: Tensor, spec: ParamSpec) -> dict[str, Tensor]:
        if self.vectors == "learned" or _is_matrix(spec, self.axes):
            view = _view_spec(spec, self.axes)
            p = _view(p, spec, self.axes)
            return start_moments(p, self.decays, features.factored_axes(view))
        return {k: torch.zeros_like(p, dtype=torch.float32) for k in ("mu", "nu")}

    def _direction(
        self, g: Tensor, kept: dict[str, Tensor], p: Tensor, spec: ParamSpec
    ) -> Tensor:
        """The direction of unit RMS, times its muP multiplier."""
        factored = features.factored_axes(_view_spec(spec, self.axes))
        g, p = (_view(x, spec, self.axes) for x in (g.clamp(-CLIP, CLIP), p))
        update_moments(kept, g, self.decays, factored)
        found = [self._of_matrix(x, p) for x in _matrices(seen(g, p, kept, factored))]
        if self.orthogonalize and p.dim() >= 2 and p.numel():
            matrices = torch.stack([shards.whole(u) for u in found])
            found = [_part(u, p) for u in semi_orthogonal(matrices)]
        found = [u * torch.rsqrt(EPS + shards.mean(u * u)) for u in found]
        u = found[0] if len(found) == 1 else torch.stack(found)
        kind = "orthogonalized" if self.orthogonalize else "entrywise"
        return update_multiplier(spec, kind) * _tensor(u, spec, self.axes)

    def _of_matrix(self, x: Seen, p: Tensor) -> Tensor:
        """The network's first output for a matrix or a vector."""
        whole = p if x.p.dim() == p.dim() else x.p
        u = torch.empty_like(x.p, memory_format=torch.contiguous_format)
        none = self.decays[0].new_zeros(0)

        def write(piece: Piece, y: Tensor) -> None:
            u[piece] = y[0]

        network.outputs(self.network, channels(x), whole, none, EPS, write)
        return shards.joined(u, layout_of(whole))


def _matrices(x: Seen) -> list[Seen]:
    """What is seen of the matrix at each place along all but the last two axes."""
    leading = x.p.shape[:-2]

    def at(y: Tensor, place: tuple[int, ...]) -> Tensor:
        sizes = y.shape[1 : 1 + len(place)]
        index = [min(i, n - 1) for i, n in zip(place, sizes, strict=True)]
        return y[(slice(None), *index)]

    return [
        x._replace(
            g=x.g[place],
            p=x.p[place],
            m=at(x.m, place),
            r=at(x.r, place),
            edges=[at(edge, place) for edge in x.edges],
        )
        for place in itertools.product(*map(range, leading))
    ]


def _part(u: Tensor, p: Tensor) -> Tensor:
    """The direction of a matrix, which every process has whole, laid out as `p`."""
    layout = layout_of(p)
    return shards.joined(shards.part(u[None], layout)[0], layout)


def _adam(g: Tensor, kept: dict[str, Tensor], step: int, *, is_corrected: bool) -> Tensor:
    """Adam's direction after `step` gradients, of which this is the last."""
    b1, b2, eps = ADAM
    mu, nu = kept["mu"], kept["nu"]
    mu.lerp_(g, 1 - b1)
    nu.lerp_(g * g, 1 - b2)
    if not is_corrected:
        return mu * torch.rsqrt(nu + eps)
    return mu / (1 - b1**step) / ((nu / (1 - b2**step)).sqrt_() + eps)


def _is_matrix(spec: ParamSpec, axes: str) -> bool:
    if axes == "last":
        return len(spec.shape) >= 2 and 0 not in spec.shape
    return spec.is_matrix and spec.role != "embedding"


def _view_spec(spec: ParamSpec, axes: str) -> ParamSpec:
    """Of the view that is computed with: a matrix where its spec makes it one.

    It is [fan_out, fan_in] where the tensor's first axis is of outputs, and else [fan_in,
    fan_out]. Of more axes, the last two in jax's order come last.
    """
    if axes == "specs" and _is_matrix(spec, axes):
        if spec.out_axes == (0,):
            shape = spec.fan_out, spec.fan_in
            return replace(spec, shape=shape, in_axes=(1,))
        return replace(
            spec, shape=(spec.fan_in, spec.fan_out), in_axes=(0,), out_axes=(1,)
        )
    if len(spec.shape) < 3:
        return spec
    shape = tuple(spec.shape[axis] for axis in features.kernel_axes(spec))
    return replace(spec, shape=shape, in_axes=(), out_axes=())


def _order(spec: ParamSpec, axes: str) -> tuple[int, ...]:
    """The axes in the order in which the view has them."""
    if axes == "specs" and _is_matrix(spec, axes):
        both = spec.in_axes, spec.out_axes
        return sum(both[::-1] if spec.out_axes == (0,) else both, ())
    return (
        features.kernel_axes(spec) if len(spec.shape) > 2 else (*range(len(spec.shape)),)
    )


def _view(x: Tensor, spec: ParamSpec, axes: str) -> Tensor:
    """The tensor as `_view_spec` says."""
    order, shape = _order(spec, axes), _view_spec(spec, axes).shape
    # A view of a DTensor whose axes are shorter than its mesh is not always possible.
    is_same = list(order) == sorted(order) and shape == spec.shape
    return x if is_same else x.permute(order).reshape(shape)


def _tensor(x: Tensor, spec: ParamSpec, axes: str) -> Tensor:
    """The inverse of `_view`."""
    order = _order(spec, axes)
    if list(order) == sorted(order) and x.shape == spec.shape:
        return x
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return x.reshape([spec.shape[a] for a in order]).permute(inverse)
