"""Functions with known optima, on which optimizers have been compared for decades.

With z = radius (x - c) the distance from the optimum c, in units of the function's own,

    rosenbrock:        100 (z_{i+1} - 2 z_i - z_i²)² + z_i²,   i < D: a curved valley
    rastrigin:         z_i² + 20 sin²(π z_i):                  a bowl full of bumps
    styblinski_tang:   (3 m² - 8) z_i² + 2 m z_i³ + z_i⁴ / 2,  m = -2.903534…: two minima
    ackley:            20 (1 - e^{-r / 5}) + e (1 - e^q),      a funnel full of bumps
                       r² = mean z_i², q = mean cos(2π z_i) - 1

the mean over i, which is the function of the literature minus its optimum. Optimum and
start are drawn from N(0, 1) in x; the loss is the function over its mean at 4096 starts,
so that one costs about 1. A minibatch's optimum is c + `noise` ξ, ξ from N(0, 1);
evaluation has none.

References:
  Rosenbrock, An automatic method for finding the greatest or least value of a function,
  1960. Rastrigin, Systems of extremal control, 1974. Styblinski and Tang, Experiments in
  nonconvex optimization, 1990. Ackley, A connectionist machine for genetic hillclimbing,
  1987.

Shapes in names: D coordinates.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from lopt.base import Array, Task
from lopt.checks import check_choices, check_integers, check_not_negative
from lopt.families.vector import vector_task


def _rosenbrock(z_D: Array) -> Array:
    here, following = z_D[:-1], z_D[1:]
    return jnp.mean(100 * (following - 2 * here - here**2) ** 2 + here**2)


def _rastrigin(z_D: Array) -> Array:
    return jnp.mean(z_D**2 + 20 * jnp.sin(math.pi * z_D) ** 2)


def _styblinski_tang(z_D: Array) -> Array:
    # Around its minimum: at 39 below zero, little would be left of a small difference.
    m = -2.903534027771177
    return jnp.mean((3 * m**2 - 8) * z_D**2 + 2 * m * z_D**3 + z_D**4 / 2)


def _ackley(z_D: Array) -> Array:
    # 10⁻¹² keeps the slope finite at the optimum, which is a cusp.
    r, q = jnp.sqrt(jnp.mean(z_D**2) + 1e-12), jnp.mean(jnp.cos(2 * math.pi * z_D)) - 1
    return -20 * jnp.expm1(-r / 5) - math.e * jnp.expm1(q)


FUNCTIONS: dict[str, tuple[Callable[[Array], Array], float]] = {
    "rosenbrock": (_rosenbrock, 1.0),
    "rastrigin": (_rastrigin, 2.0),
    "styblinski_tang": (_styblinski_tang, 2.0),
    "ackley": (_ackley, 4.0),
}
"""Of z, and the radius."""


def function(
    *,
    function: str = "rosenbrock",
    width: int = 32,
    noise: float = 0.0,
    data_seed: int = 0,
) -> Task:
    """A function with a known optimum; metrics: `distance` from it, RMS, in x.

    `width` is no width of muP's, as of `quadratic`.

    Args:
      function: a key of `FUNCTIONS`.
      width: D, the number of coordinates, two at least.
      noise: standard deviation of a minibatch's optimum.
      data_seed: of the optimum.

    Raises:
      ConfigError: an option is out of range.
    """
    check_choices(FUNCTIONS, function=function)
    check_integers(2, width=width)
    check_integers(0, data_seed=data_seed, most=2**32 - 1)
    check_not_negative(noise=noise)
    name = f"{function.replace('_', '-')}-{width}" + (
        f"-noise-{noise:g}" if noise else ""
    )
    name += f"-data-{data_seed}" if data_seed else ""
    data = _data(function, width, data_seed) | {"noise": jnp.asarray(noise, jnp.float32)}
    return replace(_task(function, width), name=name, data=data)


@cache
def _data(function: str, width: int, seed: int) -> dict[str, Array]:
    random = np.random.RandomState(seed)
    optimum, starts = random.randn(width), random.randn(4096, width)
    z = FUNCTIONS[function][1] * jnp.asarray(starts - optimum, jnp.float32)
    mean = jnp.mean(jax.vmap(FUNCTIONS[function][0])(z))
    return {"optimum": jnp.asarray(optimum, jnp.float32), "scale": 1 / mean}


@cache
def _task(function: str, width: int) -> Task:
    value_of, radius = FUNCTIONS[function]

    def measure(x_D: Array, batch: dict[str, Array]) -> tuple[Array, Array]:
        value = batch["scale"] * value_of(radius * (x_D - batch["moved"]))
        return value, x_D - batch["optimum"]

    return vector_task(width, measure)
