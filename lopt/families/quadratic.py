"""Noisy quadratics, whose curvature and optimum are known.

    loss = ½ Σ λ_i (z_i - c_i - σ ξ_i)² / D,    z = Qᵀ x

A minibatch is a ξ from N(0, 1). λ falls geometrically by the factor `condition` and has a
mean of one; the optimum c is drawn from N(0, 1), as is the start x, which thus costs 1 on
average. Evaluation has no ξ, so that the optimum costs 0: who steps at a constant rate
stays away from it. (Wu, Ren, Liao and Grosse, "Understanding short-horizon bias", arXiv
1803.02021, 2018; Zhang et al., on the noisy quadratic model, arXiv 1907.04164, 2019.)

Shapes in names: D coordinates.
"""

import math
from dataclasses import replace
from functools import cache

import jax.numpy as jnp
import numpy as np

from lopt.base import Array, Task
from lopt.checks import check_choices, check_integers, check_not_negative, check_numbers
from lopt.families.vector import vector_task


def quadratic(
    *,
    width: int = 32,
    condition: float = 100.0,
    noise: float = 0.1,
    rotated: bool = True,
    data_seed: int = 0,
) -> Task:
    """A noisy quadratic in one vector; metrics: `distance` from the optimum.

    `width` is no width of muP's: the parameter is a vector, of which every coordinate may
    move alike, however many there are.

    Args:
      width: D, the number of coordinates.
      condition: the largest curvature over the smallest.
      noise: σ, the standard deviation of a minibatch's optimum.
      rotated: whether Q is drawn from all rotations; otherwise it does nothing, and
        every coordinate is a problem of its own.
      data_seed: of the optimum and the rotation.

    Raises:
      ConfigError: an option is out of range.
    """
    check_integers(1, width=width)
    check_integers(0, data_seed=data_seed, most=2**32 - 1)
    rule = "be a number of at least 1"
    check_numbers(lambda v: 1 <= v < math.inf, rule, condition=condition)
    check_not_negative(noise=noise)
    check_choices((True, False), rotated=rotated)
    name = f"quadratic-{width}-condition-{condition:g}-noise-{noise:g}"
    name += "" if rotated else "-aligned"
    name += f"-data-{data_seed}" if data_seed else ""
    data = _data(width, condition, noise, rotated, data_seed)
    return replace(_task(width), name=name, data=data)


@cache
def _data(
    width: int, condition: float, noise: float, rotated: bool, seed: int
) -> dict[str, Array]:
    random = np.random.RandomState(seed)
    curvature = condition ** -np.linspace(0, 1, width)
    optimum = random.randn(width)
    q, r = np.linalg.qr(random.randn(width, width))
    rotation = q * np.sign(np.diag(r)) if rotated else np.eye(width)
    found = {
        "curvature": curvature / curvature.mean(),
        "optimum": optimum,
        "rotation": rotation,
        "noise": noise,
    }
    return {name: jnp.asarray(value, jnp.float32) for name, value in found.items()}


@cache
def _task(width: int) -> Task:
    def measure(x_D: Array, batch: dict[str, Array]) -> tuple[Array, Array]:
        z_D = batch["rotation"].T @ x_D
        value = 0.5 * jnp.mean(batch["curvature"] * (z_D - batch["moved"]) ** 2)
        return value, z_D - batch["optimum"]

    return vector_task(width, measure)
