"""Base optimizers: the directions that a combination mixes and baselines follow.

A `Base` is an optax transformation that maps gradients to a descent *direction*, without
learning rate or decay, and the kind of that direction, which decides how it is
normalized and how muP scales it:

* "entrywise": any elementwise rule. Its entries do not know the tensor's shape.
* "orthogonalized": an elementwise rule whose result is then replaced, on matrices, by
  the nearest semi-orthogonal matrix O times √max(m, n), which gives unit RMS entries.
  The factor is analytic: dividing by the measured RMS would punish low-rank gradients
  and break transfer across widths. Vectors have no such direction.

The transformations are elementwise: they accept stacks of tensors as well as a tree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lopt.base import Array, ParamSpec
from lopt.mup import Kind
from lopt.packing import Packing, Stacks, as_matrices, from_matrices

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Jordan et al., Muon, 2024)."""


@dataclass(frozen=True)
class Base:
    """A direction of descent.

    Attributes:
      transform: elementwise, from gradients to the direction (*not* negated).
      kind: what happens to the direction afterwards.
      momentum: the running mean of gradients inside the transform's state.
    """

    transform: optax.GradientTransformation
    kind: Kind
    momentum: Callable[[Any], Any]

    def applies(self, spec: ParamSpec) -> bool:
        """Whether the tensor has a direction of this kind."""
        return self.kind == "entrywise" or spec.is_matrix


def sgd(*, decay: float = 0.9) -> Base:
    """Momentum: m ← decay m + (1 − decay) g (Polyak, 1964)."""
    return Base(optax.ema(decay, debias=False), "entrywise", lambda state: state.ema)


def adam(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Base:
    """m̂ / (√v̂ + eps) (Kingma and Ba, Adam, 2015)."""
    transform = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    return Base(transform, "entrywise", lambda state: state.mu)


def lion(*, b1: float = 0.9, b2: float = 0.99) -> Base:
    """sign(b1 m + (1 − b1) g) (Chen et al., Symbolic discovery, 2023)."""
    transform = optax.scale_by_lion(b1=b1, b2=b2)
    return Base(transform, "entrywise", lambda state: state.mu)


def muon(*, decay: float = 0.95) -> Base:
    """Orthogonalized Nesterov momentum (Jordan et al., Muon, 2024)."""
    transform = optax.trace(decay, nesterov=True)
    return Base(
        transform,
        "orthogonalized",
        lambda state: jax.tree.map(lambda m: (1 - decay) * m, state.trace),
    )


BASES: dict[str, Callable[..., Base]] = {
    "sgd": sgd,
    "adam": adam,
    "lion": lion,
    "muon": muon,
}


def orthogonalize(matrices: Array, steps: int = 5) -> Array:
    """The semi-orthogonal matrix next to each matrix, singular values in about [.7, 1.2].

    X ← aX + (bA + cA²)X with A = XXᵀ, from X = M / ‖M‖_F, on the shorter side.

    Args:
      matrices: [..., m, n].
      steps: Newton-Schulz iterations.

    References:
      Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    norm = jnp.sqrt(jnp.sum(x * x, axis=(-2, -1), keepdims=True))
    x = x / (norm + 1e-8)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


def orthogonalized(direction: Stacks, packing: Packing) -> Stacks:
    """Each stack of matrices orthogonalized to unit RMS; zeros for other tensors."""
    out = []
    for stack, spec in zip(direction, packing.group_specs, strict=True):
        if not spec.is_matrix:
            out.append(jnp.zeros_like(stack))
            continue
        scale = max(spec.fan_in, spec.fan_out) ** 0.5
        x = orthogonalize(as_matrices(stack, spec)) * scale
        out.append(from_matrices(x, spec))
    return tuple(out)
