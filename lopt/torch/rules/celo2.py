"""Celo2: a direction of unit RMS, orthogonalized; pairs lopt/optimizers/celo2.py.

References:
  Moudgil, Knyazev, Belilovsky, Celo2: towards learned optimization free lunch, 2026,
  arXiv 2602.19142.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lopt import checks
from lopt.architecture import CLIP, Start, velo_channels
from lopt.specs import ParamSpec, update_multiplier
from lopt.torch import features, network, shards
from lopt.torch.bases import orthogonalize as semi_orthogonal
from lopt.torch.channels import Seen, channels, seen
from lopt.torch.features import Piece
from lopt.torch.moments import start_moments, update_moments
from lopt.torch.packing import packing
from lopt.torch.rule import Rule, State, Theta
from lopt.torch.shards import layout_of
from lopt.torch.stacks import Stack, stacks
from lopt.torch.stored import StateDtype, narrowed
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
    start: Start = "random",
) -> Rule:
    """p ← p - η (λ u + ω p), for a direction u of unit RMS.

    Options are those of the pair.

    Raises:
      BrokenRule: an option is out of range.
      CheckpointError: theta is not of these options.
      TypeError: a cosine, and no `num_steps`.
    """
    del start
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
    return _Celo2(
        theta["network"],
        tuple(bias.new_tensor(d) for d in decays.values()),
        num_steps if schedule == "cosine" else None,
        (learning_rate, learning_rate * vector_mult),
        weight_decay,
        orthogonalize,
        vectors,
        axes,
        state_dtype,
    )


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
    state_dtype: StateDtype
    reads_loss = False

    def init(self, params: Sequence[Tensor], specs: Sequence[ParamSpec]) -> State:
        tensors = [self._start(p, spec) for p, spec in zip(params, specs, strict=True)]
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
        step, course = int(state.shared["step"]), 1.0
        if self.num_steps is not None:
            place = min(step / self.num_steps, 1.0)
            course = 0.5 * (1 + math.cos(math.pi * place))
        pack, updates = packing(state.specs, params), []
        for x in stacks(pack, grads, state, params):
            is_learned = "momenta" in x.kept
            rate = course * self.rates[0 if is_learned else 1]
            if is_learned:
                u = self._direction(x)
            else:
                u = _adam(x, step + 1, is_corrected=self.vectors == "adamw")
            updates.append(-rate * (u + self.weight_decay * shards.local(x.p)))
        state.shared["step"] += 1
        return pack.unpack(updates, params)

    def _start(self, p: Tensor, spec: ParamSpec) -> dict[str, Tensor]:
        if self.vectors == "learned" or _is_matrix(spec, self.axes):
            view = _view_spec(spec, self.axes)
            p = _view(p[None], spec, self.axes)[0]
            return start_moments(p, self.decays, features.factored_axes(view))
        return {k: torch.zeros_like(p, dtype=torch.float32) for k in ("mu", "nu")}

    def _direction(self, x: Stack) -> Tensor:
        """The direction of unit RMS, times its muP multiplier."""
        factored = features.factored_axes(_view_spec(x.spec, self.axes))
        g = _view(x.g.clamp(-CLIP, CLIP), x.spec, self.axes)
        p = _view(x.p, x.spec, self.axes)
        update_moments(x.kept, g, self.decays, factored)
        matrices = _matrices(p)
        u = self._of_matrices(_seen(seen(g, p, x.kept, factored)), matrices)
        if self.orthogonalize and p.dim() > 2 and p.numel():
            whole = shards.whole(shards.joined(u, layout_of(matrices)))
            u = semi_orthogonal(whole)[:, None]
            u = shards.cut(u, layout_of(matrices))[:, 0]
        scale = torch.rsqrt(EPS + shards.means(u * u, matrices))
        u = u * features.along(scale, u.dim() - 1)
        kind = "orthogonalized" if self.orthogonalize else "entrywise"
        u = shards.joined(u.reshape(shards.local(p).shape), layout_of(p))
        u = shards.local(_tensor(u, x.spec, self.axes))
        return update_multiplier(x.spec, kind) * u

    def _of_matrices(self, x: Seen, p: Tensor) -> Tensor:
        """The network's first output for a stack of matrices or vectors."""
        u = torch.empty_like(x.p, memory_format=torch.contiguous_format)
        none = self.decays[0].new_zeros(0)

        def write(piece: Piece, y: Tensor) -> None:
            u[piece] = y[:, 0]

        network.outputs(self.network, channels(x), p, none, EPS, write)
        return u


def _matrices(p: Tensor) -> Tensor:
    """Tensors of more axes as more of their last two: [G, …, m, n] -> [., m, n]."""
    if p.dim() < 4:
        return p
    p = p.flatten(0, -3)
    layout = layout_of(p)
    has_its_own = layout is not None and any(x.is_shard(0) for x in layout.placements)
    return shards.local(p) if has_its_own else p


def _seen(x: Seen) -> Seen:
    """What is seen of `_matrices`."""
    leading = x.p.shape[1:-2]

    def of_each(y: Tensor) -> Tensor:
        y = y.expand(*y.shape[:2], *leading, *y.shape[-2:])
        return y.movedim(1, -3).flatten(0, -4)

    if not leading:
        return x
    g, p, m, r = _matrices(x.g), _matrices(x.p), of_each(x.m), of_each(x.r)
    return Seen(g, p, m, r, x.full, [of_each(edge) for edge in x.edges])


def _adam(x: Stack, step: int, *, is_corrected: bool) -> Tensor:
    """Adam's direction after `step` gradients, of which this is the last."""
    b1, b2, eps = ADAM
    g, mu, nu = (shards.local(y) for y in (x.g, x.kept["mu"], x.kept["nu"]))
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
    """The tensors of a stack as `_view_spec` says."""
    order, shape = _order(spec, axes), _view_spec(spec, axes).shape
    # A view of a DTensor whose axes are shorter than its mesh is not always possible.
    is_same = list(order) == sorted(order) and shape == spec.shape
    if is_same:
        return x
    return x.permute(0, *(axis + 1 for axis in order)).reshape(len(x), *shape)


def _tensor(x: Tensor, spec: ParamSpec, axes: str) -> Tensor:
    """The inverse of `_view`."""
    order = _order(spec, axes)
    if list(order) == sorted(order) and x.shape[1:] == spec.shape:
        return x
    inverse = sorted(range(len(order)), key=order.__getitem__)
    x = x.reshape(len(x), *(spec.shape[axis] for axis in order))
    return x.permute(0, *(axis + 1 for axis in inverse))
