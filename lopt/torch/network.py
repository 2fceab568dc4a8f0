"""The network that per-element rules apply to tensors; pairs lopt/optimizers/network.py.

A tensor is computed piece by piece, twice: for the mean squares that its channels are
divided by, then for the outputs. So the channels of no more than a piece are ever in
memory, and on a CPU they stay in the cache. As in the pair, the shared inputs are folded
into the first bias, the channels' scales into the first layer's weights, and channels of
rows and columns are projected before they are broadcast.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lopt.torch import features, shards
from lopt.torch.features import Piece
from lopt.torch.shards import layout_of
from lopt.torch.threads import over_pieces

T = TypeVar("T")

Layer = tuple[Tensor, Tensor]
"""Weights [outputs, inputs] and biases [outputs]."""


class Channels(NamedTuple):
    """What the network sees of each element of this process's part of a tensor.

    The columns of `w0` are in this order: own channels, edges, the last `num_after` of
    the own ones, shared inputs.
    """

    write: Callable[[Piece, Tensor], object]  # a piece's own ones, to [c, *piece]
    edges: Sequence[Tensor] = ()  # [c, *s or 1], of rows and columns
    num_after: int = 0


def outputs(
    theta: dict[str, Tensor],
    channels: Channels,
    p: Tensor,
    shared: Tensor,
    eps: float,
    use: Callable[[Piece, Tensor], T],
) -> list[T]:
    """What is made of the network's outputs for each piece of this process's part of `p`.

    Args:
      theta: weights `w0, b0, w1, …`, [outputs, inputs].
      channels: of the tensor.
      p: the tensor.
      shared: inputs that all elements share [k].
      eps: of the normalization of every channel to an RMS of one over the tensor.
      use: called with the outputs [o, *piece] of each piece, by several threads, which
        overwrite them afterwards.
    """
    own, edges, later = _folded(theta, channels, p, shared, eps)
    (w, b), part = own, shards.local(p)

    def begin() -> Callable[[Piece], T]:
        buffers = _Buffers([w.shape[1], len(b), *(len(b) for _, b in later)], part)

        def apply(piece: Piece) -> T:
            x, *sums = buffers.of(piece)
            channels.write(piece, x)
            _write_bias(b, edges, piece, sums[0])
            num = part[piece].numel()
            y = sums[0].view(-1, num).addmm_(w, x.view(-1, num))
            for (w_later, b_later), out in zip(later, sums[1:], strict=True):
                out = out.view(-1, num)
                y = torch.addmm(b_later[:, None], w_later, y.relu_(), out=out)
            return use(piece, y.view(-1, *x.shape[1:]))

        return apply

    return over_pieces(part, begin)


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

    def write(piece: Piece, y: Tensor) -> None:
        a, b, *_ = y
        torch.mul(a, b.mul_(exp_mult).exp_().mul_(size), out=update[piece])

    outputs(theta, channels, p, shared, eps, write)
    return shards.joined(update, layout_of(p))


Edge = tuple[Tensor, Tensor]
"""Weights [outputs, c], and the channels of rows or columns [c, *s or 1] they meet."""


class _Buffers:
    """Memory [n, *piece] for a few n, the same for all pieces of a tensor."""

    def __init__(self, rows: Sequence[int], part: Tensor):
        self.part, self.rows = part, rows
        first = next(features.pieces(part), None)
        size = 0 if first is None else part[first].numel()
        self.buffers = [torch.empty(n * size, device=part.device) for n in rows]

    def of(self, piece: Piece) -> list[Tensor]:
        """Of a piece, that of the piece before."""
        shape = self.part[piece].shape
        num = math.prod(shape)
        pairs = zip(self.buffers, self.rows, strict=True)
        return [x[: n * num].view(n, *shape) for x, n in pairs]


def _folded(
    theta: dict[str, Tensor], channels: Channels, p: Tensor, shared: Tensor, eps: float
) -> tuple[Layer, list[Edge], list[Layer]]:
    """The first layer of the own channels, that of the edges, and the later layers.

    The shared inputs are folded into the first bias, the scales that normalize channels
    into the first weights.
    """
    (w, b), *later = [(theta[f"w{i}"], theta[f"b{i}"]) for i in range(len(theta) // 2)]
    num_edges = [len(x) for x in channels.edges]
    num_channels = w.shape[1] - len(shared)
    num_own = num_channels - sum(num_edges)
    sizes = [num_own - channels.num_after, *num_edges, channels.num_after]
    b = b + w[:, num_channels:] @ shared
    part = shards.local(p)
    before, after = _squares(channels, num_own, part).split([sizes[0], sizes[-1]])
    found = [before, *(_edge_squares(x, part) for x in channels.edges), after]
    means = shards.added_up(torch.cat(found), layout_of(p)) / max(p.numel(), 1)
    w = w[:, :num_channels] * torch.rsqrt(eps + means)
    before, *middle, after = w.split(sizes, dim=1)
    own = torch.cat([before, after], dim=1), b
    return own, _by_shape(middle, channels.edges), later


def _squares(channels: Channels, num_own: int, part: Tensor) -> Tensor:
    """The sum of squares of each own channel, over this process's part: [num_own]."""

    def begin() -> Callable[[Piece], Tensor]:
        buffers = _Buffers([num_own], part)

        def squares(piece: Piece) -> Tensor:
            (x,) = buffers.of(piece)
            channels.write(piece, x)
            return torch.linalg.vector_norm(x.view(num_own, -1), dim=1).square()

        return squares

    none = torch.zeros(num_own, device=part.device)
    return sum(over_pieces(part, begin), none)


def _edge_squares(edge: Tensor, part: Tensor) -> Tensor:
    """The sum of squares of each channel of an edge, as if broadcast to the part: [c]."""
    flat = edge.reshape(len(edge), math.prod(edge.shape[1:]))
    return flat.square().sum(1) * (part.numel() / max(flat.shape[1], 1))


def _by_shape(weights: Sequence[Tensor], edges: Sequence[Tensor]) -> list[Edge]:
    """The edges of each shape as one."""
    groups: dict[tuple[int, ...], tuple[list[Tensor], list[Tensor]]] = {}
    for w, x in zip(weights, edges, strict=True):
        group = groups.setdefault(tuple(x.shape[1:]), ([], []))
        group[0].append(w)
        group[1].append(x)
    return [(torch.cat(w, dim=1), torch.cat(x)) for w, x in groups.values()]


def _write_bias(b: Tensor, edges: Sequence[Edge], piece: Piece, out: Tensor) -> None:
    """Writes b and the edges' part of the first layer's sums to `out` [h, *piece]."""
    sums = features.along(b, out.dim() - 1)
    for w, edge in edges[:-1]:
        sums = sums + _product(w, features.part(edge, piece))
    if edges:
        w, edge = edges[-1]
        torch.add(sums, _product(w, features.part(edge, piece)), out=out)
    else:
        out.copy_(sums.expand_as(out))


def _product(w: Tensor, x: Tensor) -> Tensor:
    """w x, [outputs, *s or 1] of channels [c, *s or 1]."""
    return (w @ x.reshape(len(x), -1)).view(-1, *x.shape[1:])
