"""Update rules in torch, one a file: the names and options of lopt/optimizers/."""

from collections.abc import Callable

from lopt.torch.rule import Rule
from lopt.torch.rules.layerwise import layerwise

RULES: dict[str, Callable[..., Rule]] = {
    "layerwise": layerwise,
}

SHARDED = frozenset({"layerwise"})
"""Those that take DTensors."""
