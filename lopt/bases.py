"""Base optimizers: the directions that a combination mixes and baselines follow.

A `Base` is a momentum and what is made of it: a *direction* of descent, without learning
rate or decay. By itself, as a baseline, it follows its own momentum; in a combination
all bases are given one momentum u that they share. The kind of its direction decides how
it is normalized and how muP scales it:

* "entrywise": brought to unit RMS by its measured RMS.
* "orthogonalized": on matrices, the nearest semi-orthogonal matrix O times √max(m, n),
  which gives unit RMS entries. The factor is analytic: dividing by the measured RMS would
  punish low-rank gradients and break transfer across widths. Vectors have no such
  direction. Shampoo's is of this kind: of one gradient it is that very matrix, and of
  noisy ones it is smaller.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt.architecture import DAMPING, INVERSE_ROOT, NEWTON_SCHULZ, TINY
from lopt.base import Array, ParamSpec
from lopt.mup import Kind
from lopt.numerics import root
from lopt.packing import Packing, Stacks, as_matrices, from_matrices

_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
"""In full float32: an accelerator's default would round L by more than `DAMPING`."""

Direction = Callable[[Stacks, Any, Array, Packing], Stacks]
"""`(u, state, step [], packing) -> direction`, not negated; the state is the next one."""

Update = Callable[[Stacks, Stacks, Any, Array, Packing], Any]
"""`(u, gradients, state, step [], packing) -> state`."""


@dataclass(frozen=True)
class Base:
    """A rule of descent.

    Attributes:
      momentum: of its own, for when it is by itself: elementwise, from gradients.
      direction: what it makes of a momentum; elementwise if it is entrywise, and then of
        any part of the tensors.
      kind: of the direction.
      init: from the parameters and their packing to the state that `direction` reads:
        one stack for each of theirs if it is entrywise, or none.
      update: of that state, by another gradient.
      largest: side of a matrix that it still fits, where it is orthogonalized.
    """

    momentum: optax.GradientTransformation
    direction: Direction
    kind: Kind
    init: Callable[[Stacks, Packing], Any] = lambda params, packing: ()
    update: Update = lambda u, grads, state, step, packing: state
    largest: float = math.inf

    def applies(self, spec: ParamSpec) -> bool:
        """Whether the tensor has a direction of this kind."""
        if self.kind == "entrywise":
            return True
        return spec.is_matrix and max(spec.fan_in, spec.fan_out) <= self.largest

    def start(self, params: Stacks, packing: Packing) -> "BaseState":
        """The state of the rule by itself, before the first step."""
        return BaseState(self.momentum.init(params), self.init(params, packing))

    def follow(
        self, grads: Stacks, state: "BaseState", step: Array, packing: Packing
    ) -> tuple[Stacks, "BaseState"]:
        """The direction of the rule by itself, and its next state."""
        u, momentum = self.momentum.update(grads, state.momentum)
        rest = self.update(u, grads, state.direction, step, packing)
        return self.direction(u, rest, step, packing), BaseState(momentum, rest)


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

    def update(u, grads, v, step, packing):
        del u, step, packing
        return jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, grads)

    def direction(u, v, step, packing):
        del packing
        debias = 1 / (1 - b2 ** (step + 1.0))
        return jax.tree.map(lambda u, v: u / (root(v * debias) + eps), u, v)

    momentum = optax.ema(b1, debias=True)
    return Base(momentum, direction, "entrywise", _zeros_like, update)


def adabelief(*, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Base:
    """u / (√ŝ + eps), s the running mean of (g − u)² (Zhuang et al., AdaBelief, 2020).

    Of u there, as the paper has it, the momentum not yet unbiased: (1 − b1^(t+1)) u.
    Else s would be zero at the first step, where an unbiased momentum is the gradient.
    """

    def update(u, grads, s, step, packing):
        del packing
        bias = 1 - b1 ** (step + 1.0)
        error = jax.tree.map(lambda u, g: g - bias * u, u, grads)
        return jax.tree.map(lambda s, e: b2 * s + (1 - b2) * e * e, s, error)

    return replace(adam(b1=b1, b2=b2, eps=eps), update=update)


def muon(*, decay: float = 0.95) -> Base:
    """u orthogonalized; by itself u is Nesterov's (Jordan et al., Muon, 2024)."""
    momentum = optax.trace(decay, nesterov=True)
    return Base(momentum, _made_of(orthogonalized), "orthogonalized")


def shampoo(*, decay: float = 0.9, b2: float = 0.99, largest: int = 4096) -> Base:
    """L̂^(−1/4) u R̂^(−1/4), L, R running means of ggᵀ, gᵀg (Gupta et al., Shampoo, 2018).

    Times √max(m, n), for matrices whose sides are at most `largest`: L and R are squares.
    Debiased means in place of sums are of Anil et al., arXiv 2002.09018, 2020.
    """

    def update(u, grads, state, step, packing):
        del u, step
        means = []
        for g, mean, spec in zip(grads, state, packing.group_specs, strict=True):
            if mean:
                g = as_matrices(g, spec)
                squares = _product(g, g.mT), _product(g.mT, g)
                mean = jax.tree.map(lambda m, s: b2 * m + (1 - b2) * s, mean, squares)
            means.append(mean)
        return tuple(means)

    def direction(u, state, step, packing):
        unbias = 1 / (1 - b2 ** (step + 1.0))
        out = []
        for x, mean, spec in zip(u, state, packing.group_specs, strict=True):
            if not mean:
                out.append(jnp.zeros_like(x))
                continue
            left, right = mean
            x = times_inverse_root(unbias * left, as_matrices(x, spec))
            x = times_inverse_root(unbias * right, x.mT).mT
            scale = max(spec.fan_in, spec.fan_out) ** 0.5
            out.append(from_matrices(scale * x, spec))
        return tuple(out)

    def init(params: Stacks, packing: Packing) -> tuple[Any, ...]:
        return tuple(
            tuple(jnp.zeros((len(p), n, n)) for n in (spec.fan_in, spec.fan_out))
            if base.applies(spec)
            else ()
            for p, spec in zip(params, packing.group_specs, strict=True)
        )

    momentum = optax.ema(decay, debias=True)
    base = Base(momentum, direction, "orthogonalized", init, update, largest)
    return base


BASES: dict[str, Callable[..., Base]] = {
    "sgd": sgd,
    "adam": adam,
    "adabelief": adabelief,
    "lion": lion,
    "muon": muon,
    "shampoo": shampoo,
}


NEED_MORE = {
    "lbfgs": "the objective",
    "mars": "a second gradient, at the parameters of the step before",
    "sam": "a second gradient, at parameters nearby",
    "sophia": "the objective's curvature",
}
"""Well-known rules that a task does not give enough for: gradients and losses alone."""


def _zeros_like(params: Stacks, packing: Packing) -> Stacks:
    del packing
    return jax.tree.map(jnp.zeros_like, params)


def _made_of(function: Callable[[Stacks, Packing], Stacks]) -> Direction:
    """A direction that depends on the momentum alone."""
    return lambda u, state, step, packing: function(u, packing)


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

    X ← (a + bA + cA²)X with A = XXᵀ, from X = M / ‖M‖_F, on the shorter side.

    Args:
      matrices: [..., m, n].
      steps: Newton-Schulz iterations.

    References:
      Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    norm = root(jnp.sum(x * x, axis=(-2, -1), keepdims=True))
    x = x / (norm + 1e-8)
    eye = jnp.broadcast_to(jnp.eye(x.shape[-2]), (*x.shape[:-1], x.shape[-2]))
    for _ in range(steps):
        gram = x @ x.mT
        # aX within the product: were it added, XLA would keep the products of all steps.
        x = (a * eye + b * gram + c * (gram @ gram)) @ x
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


def times_inverse_root(squares: Array, matrices: Array) -> Array:
    """A^(−1/4) X, finite for all A; to its eigenvalues 1e-4 of their sum is added.

    A product of polynomials, so that there is no division by what is small: from the unit
    trace M = A / tr A + `DAMPING`, each step is P = p(M), X ← P X, M ← M P⁴ → 1.

    Args:
      squares: A [..., m, m], symmetric, no eigenvalue negative.
      matrices: X [..., m, n].
    """
    trace = jnp.trace(squares, axis1=-2, axis2=-1)[..., None, None] + TINY
    eye = jnp.broadcast_to(jnp.eye(squares.shape[-1]), squares.shape)
    m, x = squares / trace + DAMPING * eye, matrices
    for a, b, c in INVERSE_ROOT:
        p = a * eye + b * m + c * _product(m, m)
        x = _product(p, x)
        p = _product(p, p)
        m = _product(m, _product(p, p))
    return x * trace**-0.25
