"""How a field of a configuration is checked: its type first, then its rules.

Types are strict: a string is never a number, a bool is not an int; an int is accepted
where a float is asked for, and becomes one.
"""

import dataclasses
import difflib
import math
import sys
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from lopt.errors import ConfigError

_LARGEST = 2**32 - 1  # steps, sizes and seeds end up in 32 bits on the device
_KINDS = {int: "an integer", float: "a number", str: "a string"}


class BrokenRule(ConfigError):
    """A key whose value breaks a rule: "`unroll.length` must be positive, got -1".

    Args:
      key: the dotted key, as far as the raiser knows it.
      rule: what the value must be or do, e.g. "be positive".
      value: what it is.
      hint: how to mend it.
    """

    def __init__(self, key: str, rule: str, value: Any, *, hint: str | None = None):
        super().__init__(f"`{key}` must {rule}, got {_show(value)}", hint=hint)
        self.key, self.rule, self.value = key, rule, value

    def within(self, table: str) -> "BrokenRule":
        """The same error, told from outside the table it was found in."""
        key = f"{table}.{self.key}" if table else self.key
        return BrokenRule(key, self.rule, self.value, hint=self.hint)


def require(config: Any, key: str, holds: bool, rule: str) -> None:
    """Raises `BrokenRule` about the field `key` of `config` unless the rule holds."""
    if not holds:
        value = getattr(config, key)
        whole = isinstance(value, float) and value.is_integer()
        raise BrokenRule(key, rule, int(value) if whole else value)


def check_types(config: Any) -> None:
    """Checks, and where needed normalizes, each field of a dataclass by its type.

    Raises:
      BrokenRule: for the first field whose value has the wrong type.
    """
    for f in dataclasses.fields(config):
        value = as_type(f.type, f.name, getattr(config, f.name))
        object.__setattr__(config, f.name, value)


def as_type(kind: Any, key: str, value: Any) -> Any:
    """`value` as `kind`: a number, a string, a `Literal`, options, configs, or None.

    Raises:
      BrokenRule: where it is of another type.
    """
    if isinstance(kind, UnionType):  # X | None, the only union there is
        return None if value is None else as_type(get_args(kind)[0], key, value)
    if get_origin(kind) is Literal:
        return _choice(get_args(kind), key, value)
    if get_origin(kind) is tuple:
        (item, _) = get_args(kind)
        if not isinstance(value, list | tuple):
            raise BrokenRule(key, "be a list", value)
        return tuple(as_type(item, f"{key}.{i}", v) for i, v in enumerate(value))
    if get_origin(kind) is dict:
        if not isinstance(value, Mapping):
            raise BrokenRule(key, "be a table", value)
        return {name: _plain(name, item) for name, item in value.items()}
    if kind in (int, float):
        return _number(kind, key, value)
    if not isinstance(value, kind):
        raise BrokenRule(key, f"be {_KINDS.get(kind, f'a `{kind.__name__}`')}", value)
    return value


def _choice(choices: tuple[str, ...], key: str, value: Any) -> str:
    if isinstance(value, str) and value in choices:
        return value
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"did you mean `{near[0]}`?" if near else None
    raise BrokenRule(
        key, "be " + " or ".join(f"`{c}`" for c in choices), value, hint=hint
    )


def _number(kind: type, key: str, value: Any) -> Any:
    accepted = (int, float) if kind is float else (int,)
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise BrokenRule(key, f"be {_KINDS[kind]}", value)
    if kind is int and value > _LARGEST:
        raise BrokenRule(key, f"be at most {_LARGEST}", value)
    if kind is float and not abs(value) <= sys.float_info.max:  # nan, too
        raise BrokenRule(key, "be finite", value)
    return kind(value)


def _plain(key: str, value: Any) -> Any:
    """A copy of an option's value, which must survive TOML and JSON unchanged."""
    if isinstance(value, list | tuple):
        return [_plain(f"{key}.{i}", item) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {name: _plain(f"{key}.{name}", item) for name, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        raise BrokenRule(key, "be finite", value)
    if not isinstance(value, bool | int | float | str):
        raise BrokenRule(key, "be a number, string, boolean, list or table", value)
    return value


def _show(value: Any) -> str:
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
