"""Checks of the options that several learned optimizers take."""

from collections.abc import Sequence

from lopt.errors import ConfigError

NO_PARAMS = "this optimizer reads the parameters: call `update(grads, state, params)`"
"""What an optimizer that needs the parameters says without them."""


def check_positive(**options: float) -> None:
    """Raises `ConfigError` unless every option is above zero."""
    for name, value in options.items():
        if not value > 0:
            raise ConfigError(f"`{name}` must be positive, got {value}")


def check_decays(**options: float | Sequence[float]) -> None:
    """Raises `ConfigError` unless all decays, one at least, are in [0, 1)."""
    for name, value in options.items():
        decays = value if isinstance(value, Sequence) else (value,)
        if not decays or not all(0 <= decay < 1 for decay in decays):
            raise ConfigError(f"`{name}` must be in [0, 1), got {value}")


def check_sizes(**options: Sequence[int]) -> None:
    """Raises `ConfigError` unless all sizes are whole numbers above zero."""
    for name, value in options.items():
        if not all(isinstance(size, int) and size > 0 for size in value):
            raise ConfigError(f"`{name}` must be positive whole numbers, got {value}")
