"""Running means of gradients: what per-element rules keep of every tensor."""

from collections.abc import Sequence

from torch import Tensor

from lopt.torch import features, shards
from lopt.torch.features import Piece
from lopt.torch.threads import over_pieces

Axes = tuple[int, int] | None
"""The axes (d1, d0) that a tensor is factored over."""


def start_moments(p: Tensor, decays: Sequence[Tensor], axes: Axes) -> dict[str, Tensor]:
    """Zero momenta, second moments and factored ones of a tensor.

    Args:
      p: the tensor [*s].
      decays: of momenta [M], second moments [R] and factored ones [F].
      axes: that it is factored over.
    """
    num_momenta, num_second, num_factored = map(len, decays)
    return {
        "momenta": features.zeros(p, num_momenta),
        "second_moments": features.zeros(p, num_second),
        **features.init_factored_moment(p, num_factored, axes),
    }


def update_moments(
    moments: dict[str, Tensor], g: Tensor, decays: Sequence[Tensor], axes: Axes
) -> None:
    """The moments of a stack of tensors with another gradient [G, *s], in place."""
    d_m, d_r, d_v = decays
    features.update_factored_moment(moments, g, d_v, axes)
    m, r = own(moments)
    g = shards.local(g)

    def update(piece: Piece) -> None:
        features.update_momenta(features.part(m, piece), g[piece], d_m)
        features.update_second_moments(features.part(r, piece), g[piece], d_r)

    over_pieces(g, lambda: update)


def own(moments: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Momenta and second moments of this process's part of a stack."""
    m, r = (shards.local(moments[name]) for name in ("momenta", "second_moments"))
    return m, r
