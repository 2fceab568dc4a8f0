"""Base optimizers: the directions that a combination mixes and baselines follow.

A `Base` is a momentum and what is made of it: a *direction* of descent, without learning
rate or decay. By itself, as a baseline, it follows its own momentum; in a combination
all bases are given one momentum u that they share. The kind of its direction decides how
it is normalized and how muP scales it:

* "entrywise": brought to unit RMS by its measured RMS.
* "orthogonalized": on matrices, the nearest semi-orthogonal matrix O times √max(m, n),
  which gives unit RMS entries. The factor is analytic: dividing by the measured RMS would
  punish low-rank gradients and break transfer across widths. Vectors have no such
  direction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt.base import Array, ParamSpec
from lopt.mup import Kind
from lopt.packing import Packing, Stacks, as_matrices, from_matrices

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Jordan et al., Muon, 2024)."""

Direction = Callable[[Stacks, Stacks, Any, Array, Packing], tuple[Stacks, Any]]
"""`(u, gradients, state, step [], packing) -> (direction, state)`; not negated."""


def _no_state(params: Stacks) -> Any:
    del params
    return ()


@dataclass(frozen=True)
class Base:
    """A rule of descent.

    Attributes:
      momentum: of its own, for when it is by itself: elementwise, from gradients.
      direction: what it makes of a momentum.
      kind: of the direction.
      init: from the parameters to the state of `direction`.
    """

    momentum: optax.GradientTransformation
    direction: Direction
    kind: Kind
    init: Callable[[Stacks], Any] = _no_state

    def applies(self, spec: ParamSpec) -> bool:
        """Whether the tensor has a direction of this kind."""
        return self.kind == "entrywise" or spec.is_matrix

    def start(self, params: Stacks) -> "BaseState":
        """The state of the rule by itself, before the first step."""
        return BaseState(self.momentum.init(params), self.init(params))

    def follow(
        self, grads: Stacks, state: "BaseState", step: Array, packing: Packing
    ) -> tuple[Stacks, "BaseState"]:
        """The direction of the rule by itself, and its next state."""
        u, momentum = self.momentum.update(grads, state.momentum)
        d, rest = self.direction(u, grads, state.direction, step, packing)
        return d, BaseState(momentum, rest)


class BaseState(NamedTuple):
    """What a rule by itself carries from step to step."""

    momentum: Any
    direction: Any


def sgd(*, decay: float = 0.9) -> Base:
    """u itself; by itself u ← decay u + (1 − decay) g (Polyak, 1964)."""
    return Base(optax.ema(decay, debias=False), _made_of(lambda u, _: u), "entrywise")


def lion(*, b1: float = 0.9, b2: float = 0.99) -> Base:
    """sign(u); by itself u = b1 m + (1 − b1) g (Chen et al., Lion, 2023)."""
    sign = _made_of(lambda u, _: jax.tree.map(jnp.sign, u))
    return Base(_interpolation(b1, b2), sign, "entrywise")


def adam(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Base:
    """u / (√v̂ + eps), v the running mean of g² (Kingma and Ba, Adam, 2015)."""

    def direction(u, grads, v, step, packing):
        del packing
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, grads)
        debias = 1 / (1 - b2 ** (step + 1.0))
        return jax.tree.map(lambda u, v: u / (jnp.sqrt(v * debias) + eps), u, v), v

    def init(params: Stacks) -> Stacks:
        return jax.tree.map(jnp.zeros_like, params)

    return Base(optax.ema(b1, debias=True), direction, "entrywise", init)


def muon(*, decay: float = 0.95) -> Base:
    """u orthogonalized; by itself u is Nesterov's (Jordan et al., Muon, 2024)."""
    momentum = optax.trace(decay, nesterov=True)
    return Base(momentum, _made_of(orthogonalized), "orthogonalized")


BASES: dict[str, Callable[..., Base]] = {
    "sgd": sgd,
    "adam": adam,
    "lion": lion,
    "muon": muon,
}


NEED_MORE = {
    "lbfgs": "the objective",
    "mars": "a second gradient, at the parameters of the step before",
    "sam": "a second gradient, at parameters nearby",
    "sophia": "the objective's curvature",
}
"""Well-known rules that a task does not give enough for: gradients and losses alone."""


def _made_of(function: Callable[[Stacks, Packing], Stacks]) -> Direction:
    """A direction that depends on the momentum alone."""

    def direction(u, grads, state, step, packing):
        del grads, step
        return function(u, packing), state

    return direction


def _interpolation(b1: float, b2: float) -> optax.GradientTransformation:
    """u = b1 m + (1 − b1) g, then m ← b2 m + (1 − b2) g."""

    def mean(decay, m, g):
        return jax.tree.map(lambda m, g: decay * m + (1 - decay) * g, m, g)

    def update(updates, state, params=None):
        del params
        return mean(b1, state, updates), mean(b2, state, updates)

    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params), update
    )


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


def orthogonalized(momentum: Stacks, packing: Packing) -> Stacks:
    """Each stack of matrices orthogonalized to unit RMS; zeros for other tensors."""
    out = []
    for stack, spec in zip(momentum, packing.group_specs, strict=True):
        if not spec.is_matrix:
            out.append(jnp.zeros_like(stack))
            continue
        scale = max(spec.fan_in, spec.fan_out) ** 0.5
        x = orthogonalize(as_matrices(stack, spec)) * scale
        out.append(from_matrices(x, spec))
    return tuple(out)
