"""The network that per-element rules apply to tensors; pairs lopt/optimizers/network.py.

A stack is computed piece by piece, twice: for the mean squares that the channels of each
tensor are divided by, then for the outputs. So the channels of no more than a piece are
ever in memory, and on a CPU they stay in the cache. As in the pair, the shared inputs are
folded into the first bias, the channels' scales into the first layer's weights, of which
every tensor then has its own, and channels of rows and columns are projected before they
are broadcast.
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
"""Weights [G, outputs, inputs] and biases [G, outputs]."""


class Channels(NamedTuple):
    """What the network sees of each element of this process's part of a stack.

    The columns of `w0` are in this order: own channels, edges, the last `num_after` of
    the own ones, shared inputs.
    """

    write: Callable[[Piece, Tensor], object]  # a piece's own ones, to [., c, *piece]
    edges: Sequence[Tensor] = ()  # [G, c, *s or 1], of rows and columns
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
      theta: weights `w0, b0, w1, …`, [outputs, inputs], or of each tensor its own.
      channels: of the stack.
      p: the stack [G, *s].
      shared: inputs that all elements of a tensor share [k], or of each tensor its own.
      eps: of the normalization of every channel to an RMS of one over the tensor.
      use: called with the outputs [., o, *piece] of each piece, by several threads, which
        overwrite them afterwards.
    """
    own, edges, later = _folded(theta, channels, p, shared, eps)
    (w, b), part = own, shards.local(p)

    def begin() -> Callable[[Piece], T]:
        widths = [w.shape[2], *(b.shape[1] for _, b in [own, *later])]
        buffers = _Buffers(widths, part)

        def apply(piece: Piece) -> T:
            x, *layers = buffers.of(piece)
            channels.write(piece, x)
            _write_bias(b, edges, piece, layers[0])
            rows = piece[0]
            y = features.flat(layers[0]).baddbmm_(w[rows], features.flat(x))
            for (w_later, b_later), out in zip(later, layers[1:], strict=True):
                bias, out = b_later[rows, :, None], features.flat(out)
                y = torch.baddbmm(bias, w_later[rows], y.relu_(), out=out)
            return use(piece, layers[-1])

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
    """The update size · a · exp(exp_mult · b) of outputs (a, b, …).

    Args:
      theta: and all before `size`: as in `outputs`.
      size: of all tensors, or of each its own [G].
      exp_mult: see above.

    Returns:
      This process's part.
    """
    update = torch.empty_like(shards.local(p), dtype=torch.float32)
    sizes = features.along(update.new_ones(len(update)) * size, update.dim() - 1)

    def write(piece: Piece, y: Tensor) -> None:
        a, b, *_ = y.unbind(1)
        size = b.mul_(exp_mult).exp_().mul_(sizes[piece[0]])
        torch.mul(a, size, out=update[piece])

    outputs(theta, channels, p, shared, eps, write)
    return update


Edge = tuple[Tensor, Tensor]
"""Weights [G, outputs, c], and the channels of rows or columns [G, c, *s or 1] they meet.
"""


class _Buffers:
    """Memory [., n, *piece] for a few n, the same for all pieces of a stack."""

    def __init__(self, rows: Sequence[int], part: Tensor):
        self.part, self.rows = part, rows
        first = next(features.pieces(part), None)
        size = 0 if first is None else part[first].numel()
        self.buffers = [torch.empty(n * size, device=part.device) for n in rows]

    def of(self, piece: Piece) -> list[Tensor]:
        """Of a piece, that of the piece before."""
        count, *shape = self.part[piece].shape
        num = count * math.prod(shape)
        pairs = zip(self.buffers, self.rows, strict=True)
        return [x[: n * num].view(count, n, *shape) for x, n in pairs]


def _folded(
    theta: dict[str, Tensor], channels: Channels, p: Tensor, shared: Tensor, eps: float
) -> tuple[Layer, list[Edge], list[Layer]]:
    """The first layer of the own channels, that of the edges, and the later layers.

    The shared inputs are folded into the first bias, the scales that normalize channels
    into the first weights.
    """
    (w, b), *later = [(theta[f"w{i}"], theta[f"b{i}"]) for i in range(len(theta) // 2)]
    num_edges = [x.shape[1] for x in channels.edges]
    num_channels = w.shape[-1] - shared.shape[-1]
    num_own = num_channels - sum(num_edges)
    sizes = [num_own - channels.num_after, *num_edges, channels.num_after]
    part = shards.local(p)
    b = b + (w[..., num_channels:] @ shared[..., None])[..., 0]
    before, after = _squares(channels, num_own, part).split([sizes[0], sizes[-1]], dim=1)
    found = [before, *(_edge_squares(x, part) for x in channels.edges), after]
    squares = shards.added_up(torch.cat(found, dim=1), layout_of(p))
    means = squares / max(math.prod(p.shape[1:]), 1)
    w = w[..., :num_channels] * torch.rsqrt(eps + means)[:, None]
    before, *middle, after = w.split(sizes, dim=2)
    first = torch.cat([before, after], dim=2), b
    own, *later = [
        (w.expand(len(part), *w.shape[-2:]), b.expand(len(part), b.shape[-1]))
        for w, b in [first, *later]
    ]
    return own, _by_shape(middle, channels.edges), later


def _squares(channels: Channels, num_own: int, part: Tensor) -> Tensor:
    """The sum of squares of each own channel, over this process's part: [G, num_own]."""

    def begin() -> Callable[[Piece], Tensor]:
        buffers = _Buffers([num_own], part)

        def squares(piece: Piece) -> Tensor:
            (x,) = buffers.of(piece)
            channels.write(piece, x)
            return torch.linalg.vector_norm(features.flat(x), dim=2).square()

        return squares

    return features.sums(part, over_pieces(part, begin), num_own)


def _edge_squares(edge: Tensor, part: Tensor) -> Tensor:
    """The sum of squares of each channel of an edge, as if broadcast: [G, c]."""
    num, own = math.prod(part.shape[1:]), math.prod(edge.shape[2:])
    return features.flat(edge).square().sum(2) * (num / max(own, 1))


def _by_shape(weights: Sequence[Tensor], edges: Sequence[Tensor]) -> list[Edge]:
    """The edges of each shape as one."""
    groups: dict[tuple[int, ...], tuple[list[Tensor], list[Tensor]]] = {}
    for w, x in zip(weights, edges, strict=True):
        group = groups.setdefault(tuple(x.shape[2:]), ([], []))
        group[0].append(w)
        group[1].append(x)
    return [(torch.cat(w, dim=2), torch.cat(x, dim=1)) for w, x in groups.values()]


def _write_bias(b: Tensor, edges: Sequence[Edge], piece: Piece, out: Tensor) -> None:
    """Writes b and the edges' part of the first layer's sums to `out` [., h, *piece]."""
    found = features.along(b[piece[0]], out.dim() - 2)
    products = [_product(w[piece[0]], features.part(x, piece)) for w, x in edges]
    for product in products[:-1]:
        found = found + product
    if products:
        torch.add(found, products[-1], out=out)
    else:
        out.copy_(found.expand_as(out))


def _product(w: Tensor, x: Tensor) -> Tensor:
    """w x, [., outputs, *s or 1] of channels [., c, *s or 1]."""
    return (w @ features.flat(x)).view(*w.shape[:2], *x.shape[2:])
