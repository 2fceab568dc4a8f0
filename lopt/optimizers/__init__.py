"""Learned optimizers, one a file: factories of `theta -> optax optimizer`."""

from collections.abc import Callable

from lopt.base import LearnedOptimizer
from lopt.optimizers.layerwise import layerwise

OPTIMIZERS: dict[str, Callable[..., LearnedOptimizer]] = {
    "layerwise": layerwise,
}
