"""The network that per-element rules apply to tensors; pairs lopt/optimizers/network.py.

A tensor is computed piece by piece, twice: once for the mean squares that its channels are
divided by, once for the outputs. So the channels of no more than a piece are ever in
memory, and on a CPU they stay in the cache. As in the pair, the shared inputs are folded
into the first bias, the channels' scales into the first layer's weights, and channels of
rows and columns are projected before they are broadcast.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lopt.specs import ParamSpec, update_multiplier
from lopt.torch import features, shards
from lopt.torch.features import Piece

Channels = Callable[[Piece], list[Tensor]]
"""A piece's channels [c, *piece or 1], in the order of the columns of `w0`."""


def outputs(
    theta: dict[str, Tensor],
    channels: Channels,
    p: Tensor,
    shared: Tensor,
    eps: float,
) -> Iterator[tuple[Piece, Tensor]]:
    """The network's outputs [o, *piece] for each piece of this process's part of `p`.

    Args:
      theta: weights `w0, b0, w1, …`, [outputs, inputs]; the columns of `w0` are the
        channels in their order, then the shared inputs.
      channels: of each piece.
      p: the tensor.
      shared: inputs that all elements share [k].
      eps: of the normalization of every channel to an RMS of one over the tensor.
    """
    (w, b), *later = _layers(theta)
    num_channels = w.shape[1] - len(shared)
    b = b + w[:, num_channels:] @ shared
    part = shards.local(p)
    squares = torch.zeros(num_channels, device=part.device)
    for piece in features.pieces(part):
        squares += _sums_of_squares(channels(piece))
    means = shards.total(squares, p) / max(p.numel(), 1)
    layers = [(w[:, :num_channels] * torch.rsqrt(eps + means), b), *later]
    for piece in features.pieces(part):
        yield piece, _apply(layers, channels(piece))


def updated(
    theta: dict[str, Tensor],
    channels: Channels,
    p: Tensor,
    shared: Tensor,
    eps: float,
    size: Tensor | float,
    exp_mult: float,
) -> Tensor:
    """The update size · a · exp(exp_mult · b) of outputs (a, b, …), laid out as `p`."""
    update = torch.empty_like(shards.local(p), dtype=torch.float32)
    for piece, (a, b, *_) in outputs(theta, channels, p, shared, eps):
        torch.mul(a, b.mul_(exp_mult).exp_().mul_(size), out=update[piece])
    return shards.as_part(update, p)


def multiplier(spec: ParamSpec) -> float:
    """The tensor's muP multiplier for directions of single entries."""
    return update_multiplier(spec, "entrywise")


def _layers(theta: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(theta[f"w{i}"], theta[f"b{i}"]) for i in range(len(theta) // 2)]


def _sums_of_squares(channels: Sequence[Tensor]) -> Tensor:
    """Of each channel over a piece, as if broadcast: [sum of c]."""
    num = math.prod(_shape_of(channels))
    flat = [c.reshape(len(c), -1) for c in channels]
    norms = [torch.linalg.vector_norm(c, dim=1) for c in flat]
    sums = [x.square() * (num / c.shape[1]) for x, c in zip(norms, flat, strict=True)]
    return torch.cat(sums)


def _apply(layers: list[tuple[Tensor, Tensor]], channels: Sequence[Tensor]) -> Tensor:
    """The outputs [o, *s] of a relu network, for channels [c, *s or 1]."""
    (w, b), *later = layers
    shape = _shape_of(channels)
    groups: dict[tuple[int, ...], tuple[list[Tensor], list[Tensor]]] = {shape: ([], [])}
    columns = w.split([len(c) for c in channels], dim=1)
    for c, weights in zip(channels, columns, strict=True):
        group = groups.setdefault(tuple(c.shape[1:]), ([], []))
        group[0].append(weights)
        group[1].append(c.reshape(len(c), -1))
    products = {s: (torch.cat(w, dim=1), torch.cat(c)) for s, (w, c) in groups.items()}
    w, own = products.pop(shape)
    sums = features.along(b, len(shape))
    for s, (weights, c) in products.items():
        sums = sums + (weights @ c).reshape(-1, *s)
    x = sums.expand(-1, *shape).clone(memory_format=torch.contiguous_format)
    x = x.view(len(b), -1).addmm_(w, own)
    for w, b in later:
        x = torch.addmm(b[:, None], w, x.relu_())
    return x.view(-1, *shape)


def _shape_of(channels: Sequence[Tensor]) -> tuple[int, ...]:
    """The piece's shape, from its channels."""
    return tuple(torch.broadcast_shapes(*(c.shape[1:] for c in channels)))
