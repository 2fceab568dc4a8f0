"""Checks of the options that several families take; all raise `BrokenRule`."""

import math
from collections.abc import Callable, Iterable
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
        if type(value) not in (int, float) or not holds(value):
            raise BrokenRule(name, rule, value)


def check_positive(**options: Any) -> None:
    """Every option must be a finite number above zero."""
    check_numbers(lambda v: 0 < v < math.inf, "be a positive number", **options)


def check_choices(known: Iterable[Any], **options: Any) -> None:
    """Every option must be one of these."""
    known = list(known)
    rule = "be " + " or ".join(f"`{_shown(choice)}`" for choice in known)
    for name, value in options.items():
        if not any(type(value) is type(c) and value == c for c in known):
            raise BrokenRule(name, rule, value)


def _shown(choice: Any) -> str:
    return str(choice).lower() if isinstance(choice, bool) else str(choice)
