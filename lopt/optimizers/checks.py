"""Checks of the options that several learned optimizers take; all raise `BrokenRule`."""

from collections.abc import Sequence

from lopt.config import BrokenRule

NO_PARAMS = "this optimizer reads the parameters: call `update(grads, state, params)`"
"""What an optimizer that needs the parameters says without them."""


def check_positive(**options: float) -> None:
    """Every option must be above zero."""
    for name, value in options.items():
        if not value > 0:
            raise BrokenRule(name, "be positive", value)


def check_not_negative(**options: float) -> None:
    """No option may be below zero."""
    for name, value in options.items():
        if not value >= 0:
            raise BrokenRule(name, "not be negative", value)


def check_decays(**options: float | Sequence[float]) -> None:
    """All decays, one at least, must be in [0, 1)."""
    for name, value in options.items():
        decays = value if isinstance(value, Sequence) else (value,)
        if not decays or not all(0 <= decay < 1 for decay in decays):
            raise BrokenRule(name, "be in [0, 1)", value)


def check_sizes(**options: Sequence[int]) -> None:
    """All sizes must be whole numbers above zero."""
    for name, value in options.items():
        if not all(isinstance(size, int) and size > 0 for size in value):
            raise BrokenRule(name, "be positive whole numbers", value)
