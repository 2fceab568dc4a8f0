"""The thirty channels of VeLO, Celo and Celo2; pairs lopt/optimizers/channels.py."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lopt.torch import features, shards
from lopt.torch.features import Piece
from lopt.torch.moments import Axes, own
from lopt.torch.network import Channels
from lopt.torch.shards import layout_of


class Seen(NamedTuple):
    """This process's part of a stack and of its statistics, as its channels see them."""

    g: Tensor  # shape=[G, *s], clipped
    p: Tensor  # shape=[G, *s]
    m: Tensor  # shape=[G, M, *s]
    r: Tensor  # shape=[G, R, *s]
    full: Tensor | None  # shape=[G, F, *s], of tensors that are not factored
    edges: Sequence[Tensor]  # R, C, rsqrt(R), rsqrt(C), ρ, κ of those that are


def seen(g: Tensor, p: Tensor, moments: dict[str, Tensor], axes: Axes) -> Seen:
    """What the channels of a stack see."""
    parts = shards.local(g), shards.local(p), *own(moments)
    if axes is None:
        return Seen(*parts, shards.local(moments["full"]), [])
    edges = [moments["row"], moments["col"]]
    edges += [torch.rsqrt(x + 1e-8) for x in edges]
    edges += features.reciprocal_root_factors(moments, axes[0])
    return Seen(*parts, None, [shards.cut(x, layout_of(p)) for x in edges])


def channels(x: Seen, *, eps: float = 1e-8, repeats: bool = False) -> Channels:
    """The channels of a stack, in the published order: see the pair's `channels`.

    Args:
      x: the stack.
      eps: added to r inside of roots.
      repeats: whether V stands for both R and C where nothing is factored; zeros do
        otherwise.
    """

    def write(piece: Piece, out: Tensor) -> None:
        g, p = x.g[piece][:, None], x.p[piece][:, None]
        m, r = features.part(x.m, piece), features.part(x.r, piece)
        inverse = torch.rsqrt(r + eps)
        values = [g, g.clamp(-0.1, 0.1), p, m, r, m * inverse, inverse]
        if x.full is None:
            rho, kappa = (features.part(edge, piece) for edge in x.edges[4:])
            factor = rho * kappa
            values += [g * factor, g * inverse, m * factor]
            torch.cat(values, dim=1, out=out)
            return
        v = features.part(x.full, piece)
        values += [g * features.reciprocal_root(v), g * inverse]
        root = torch.rsqrt(v + 1e-8)
        if repeats:
            values += [v, v, root, root, m * torch.rsqrt(v)]
        absent = out.shape[1] - sum(y.shape[1] for y in values)
        values.append(v.new_zeros(len(out), absent, *g.shape[2:]))
        torch.cat(values, dim=1, out=out)

    num_after = 0 if x.full is not None else x.m.shape[1]
    return Channels(write, x.edges[:4], num_after)
