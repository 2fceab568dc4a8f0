"""Checks of what factories and optimizers are given, by the rules that several have."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lopt.config import BrokenRule


def check_integers(least: int, *, most: int | None = None, **options: Any) -> None:
    """Every option must be a whole number in this range."""
    rule = f"at least {least}" if most is None else f"{least} to {most}"
    rule = f"be an integer {'of' if most is None else 'from'} {rule}"
    for name, value in options.items():
        whole = type(value) is int  # a bool is not
        if not whole or value < least or (most is not None and value > most):
            raise BrokenRule(name, rule, value)


def check_numbers(holds: Callable[[float], bool], rule: str, **options: Any) -> None:
    """The rule must hold for every option, and every option be a number."""
    for name, value in options.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not holds(value):
            raise BrokenRule(name, rule, value)


def check_positive(**options: Any) -> None:
    """Every option must be a finite number above zero."""
    check_numbers(lambda v: 0 < v < math.inf, "be positive", **options)


def check_not_negative(**options: Any) -> None:
    """Every option must be a finite number of at least zero."""
    check_numbers(lambda v: 0 <= v < math.inf, "not be negative", **options)


def check_decays(**options: float | Sequence[float]) -> None:
    """All decays, one at least, must be in [0, 1)."""
    for name, value in options.items():
        decays = value if isinstance(value, Sequence) else (value,)
        if not decays or not all(0 <= decay < 1 for decay in decays):
            raise BrokenRule(name, "be in [0, 1)", value)


def check_counts(momentum_decays: Sequence[float], **others: Sequence[float]) -> None:
    """The others, which are multiplied with the momenta, must be one or as many."""
    for name, decays in others.items():
        if len(decays) not in (1, len(momentum_decays)):
            rule = f"be one or as many as `momentum_decays` ({len(momentum_decays)})"
            raise BrokenRule(name, rule, decays)


def check_blend(momenta: Sequence[float], prior_blend: Sequence[float]) -> None:
    """Decays of momenta, one at least, and a share for each and for the gradient."""
    if not momenta or not all(0 < decay < 1 for decay in momenta):
        raise BrokenRule("momenta", "be decays between 0 and 1", list(momenta))
    num_shares = len(momenta) + 1
    if len(prior_blend) != num_shares:
        rule = f"have {num_shares} shares, of the gradient and of each momentum"
        raise BrokenRule("prior_blend", rule, list(prior_blend))
    if not all(share > 0 for share in prior_blend):
        raise BrokenRule("prior_blend", "have positive shares", list(prior_blend))


def check_sizes(**options: Sequence[int]) -> None:
    """All sizes must be whole numbers above zero."""
    for name, value in options.items():
        if not all(isinstance(size, int) and size > 0 for size in value):
            raise BrokenRule(name, "be positive whole numbers", value)


def check_choices(known: Iterable[Any], **options: Any) -> None:
    """Every option must be one of these."""
    known = list(known)
    rule = "be " + " or ".join(f"`{_shown(choice)}`" for choice in known)
    for name, value in options.items():
        if not any(type(value) is type(c) and value == c for c in known):
            raise BrokenRule(name, rule, value)


def _shown(choice: Any) -> str:
    return str(choice).lower() if isinstance(choice, bool) else str(choice)


def check_value(value: Any) -> None:
    """Raises where an optimizer that reads the loss has none, or not one number.

    Raises:
      TypeError: it was not passed; Flax's `TrainState.apply_gradients` drops it.
      ValueError: it has axes.
    """
    rule = "this optimizer reads the loss: `update(grads, state, params, value=loss)`"
    if value is None:
        raise TypeError(rule)
    if shape := getattr(value, "shape", ()):
        raise ValueError(f"{rule}, a scalar, got shape {list(shape)}")


def check_params(params: Any) -> None:
    """Raises `ValueError` where an optimizer that reads the parameters has none."""
    if params is None:
        rule = "this optimizer reads the parameters"
        raise ValueError(f"{rule}: call `update(grads, state, params)`")
