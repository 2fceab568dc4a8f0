"""The directions that `layerwise` mixes, as lopt/bases.py defines them.

Each is of one momentum u, in stacks [G, *shape]. An "entrywise" direction is brought to
unit RMS afterward: constant factors are left out.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lopt.architecture import DAMPING, INVERSE_ROOT, NEWTON_SCHULZ, TINY
from lopt.specs import Kind, ParamSpec
from lopt.torch.packing import as_matrices, from_matrices
from lopt.torch.shards import Layout, cut, joined, whole


class Place(NamedTuple):
    """What the tensors of a stack are, and when."""

    spec: ParamSpec
    layout: Layout | None
    step: int  # updates before this one


Keep = dict[str, Tensor]
"""What a base carries for a stack of tensors; changed in place."""


class Base(NamedTuple):
    """A rule of descent.

    Attributes:
      kind: how its direction scales.
      direction: `(u, gradients, keep, place) -> direction`, a new tensor; not negated.
      keeps: names of what is carried from step to step.
      init: what that is for one tensor at first.
      largest: side of a matrix that it still fits, where it is orthogonalized.
    """

    kind: Kind
    direction: Callable[[Tensor, Tensor, Keep, Place], Tensor]
    keeps: tuple[str, ...] = ()
    init: Callable[[Tensor, ParamSpec], Keep] = lambda p, spec: {}
    largest: float = math.inf

    def applies(self, spec: ParamSpec) -> bool:
        """Whether the tensor has a direction of this kind."""
        if self.kind == "entrywise":
            return True
        return spec.is_matrix and max(spec.fan_in, spec.fan_out) <= self.largest


def sgd() -> Base:
    """u itself."""
    return Base("entrywise", lambda u, g, keep, place: u.clone())


def lion() -> Base:
    """sign(u)."""
    return Base("entrywise", lambda u, g, keep, place: torch.sign(u))


def adam(*, b2: float = 0.999, eps: float = 1e-8) -> Base:
    """u / (√v̂ + eps), v the running mean of g²."""

    def direction(u: Tensor, g: Tensor, keep: Keep, place: Place) -> Tensor:
        v = keep["second_moment"].mul_(b2).addcmul_(g, g, value=1 - b2)
        root = torch.sqrt(v).add_(eps * _correction(b2, place.step) ** 0.5)
        return torch.div(u, root, out=root)

    return Base("entrywise", direction, ("second_moment",), _second_moment)


def adabelief(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Base:
    """u / (√ŝ + eps), s the running mean of (g − (1 − b1^(t+1)) u)²."""

    def direction(u: Tensor, g: Tensor, keep: Keep, place: Place) -> Tensor:
        error = torch.sub(g, u, alpha=_correction(b1, place.step))
        s = keep["second_moment"].mul_(b2).addcmul_(error, error, value=1 - b2)
        root = torch.sqrt(s).add_(eps * _correction(b2, place.step) ** 0.5)
        return torch.div(u, root, out=root)

    return Base("entrywise", direction, ("second_moment",), _second_moment)


def muon() -> Base:
    """u orthogonalized, times √max(m, n)."""

    def direction(u: Tensor, g: Tensor, keep: Keep, place: Place) -> Tensor:
        del g, keep
        spec, layout, _ = place
        matrices = as_matrices(_whole(u, layout), spec)
        x = orthogonalize(matrices) * max(spec.fan_in, spec.fan_out) ** 0.5
        return cut(from_matrices(x, spec), layout)

    return Base("orthogonalized", direction)


def shampoo(*, b2: float = 0.99, largest: int = 4096) -> Base:
    """L̂^(−1/4) u R̂^(−1/4) √max(m, n), L, R running means of ggᵀ, gᵀg."""

    def direction(u: Tensor, g: Tensor, keep: Keep, place: Place) -> Tensor:
        spec, layout, step = place
        x, g = (as_matrices(_whole(t, layout), spec) for t in (u, g))
        left = keep["left"].mul_(b2).add_(g @ g.mT, alpha=1 - b2)
        right = keep["right"].mul_(b2).add_(g.mT @ g, alpha=1 - b2)
        unbias = 1 / _correction(b2, step)
        x = times_inverse_root(unbias * left, x)
        x = times_inverse_root(unbias * right, x.mT).mT
        scale = max(spec.fan_in, spec.fan_out) ** 0.5
        return cut(from_matrices(scale * x, spec), layout)

    def init(p: Tensor, spec: ParamSpec) -> Keep:
        sides = {"left": spec.fan_in, "right": spec.fan_out}
        return {k: torch.zeros(n, n, device=p.device) for k, n in sides.items()}

    return Base("orthogonalized", direction, ("left", "right"), init, largest)


BASES: dict[str, Callable[[], Base]] = {
    "sgd": sgd,
    "adam": adam,
    "adabelief": adabelief,
    "lion": lion,
    "muon": muon,
    "shampoo": shampoo,
}


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The semi-orthogonal matrix next to each matrix [G, m, n]; bases.py says how.

    In bfloat16, as in `torch.optim.Muon`, where `torch.set_float32_matmul_precision` has
    allowed it by "medium"; else in float32.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-8)
    if torch.get_float32_matmul_precision() == "medium":
        x = x.bfloat16()
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


def times_inverse_root(squares: Tensor, matrices: Tensor) -> Tensor:
    """A^(−1/4) X, to A's eigenvalues 1e-4 of their sum added; bases.py says how."""
    trace = squares.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] + TINY
    eye = torch.eye(squares.shape[-1], device=squares.device).expand_as(squares)
    m, x = squares / trace + DAMPING * eye, matrices
    for a, b, c in INVERSE_ROOT:
        p = a * eye + b * m + c * (m @ m)
        x = p @ x
        p = p @ p
        m = m @ (p @ p)
    return x * trace**-0.25


def _whole(stack: Tensor, layout: Layout | None) -> Tensor:
    """The matrices whose parts are stacked; one that is spread is alone there."""
    return stack if layout is None else whole(joined(stack[0], layout))[None]


def _second_moment(p: Tensor, spec: ParamSpec) -> Keep:
    del spec
    return {"second_moment": torch.zeros_like(p, dtype=torch.float32)}


def _correction(decay: float, step: int) -> float:
    return 1 - decay ** (step + 1)
