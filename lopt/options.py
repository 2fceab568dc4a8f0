"""Options of factories, read from and checked against their signatures.

The signature of a factory is the only home of its options: names, types and defaults.
"""

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from lopt import factories
from lopt.config import BrokenRule
from lopt.config.rules import as_type
from lopt.errors import ConfigError


def build(
    factory: Callable[..., Any],
    options: Mapping[str, Any],
    *args: Any,
    where: str,
    other_keys: Iterable[str] = (),
) -> Any:
    """`factory(*args, **options)`, the options' types checked first.

    Args:
      factory: what is called.
      options: plain values, as TOML and JSON have them.
      args: what the factory takes beside its options.
      where: the dotted place of the options in the configuration, for messages.
      other_keys: keys of that place that are not options, for the nearest match.

    Raises:
      ConfigError: an unknown option, or one that may not have that value.
    """
    typed = typed_options(factory, options, where=where)
    bound = partial(factory, *args) if args else factory
    try:
        return factories.call(bound, typed, where=where, other_keys=other_keys)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`{where}`: {error}") from error


def resolved(factory: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a factory: given ones, and the defaults of the others."""
    parameters = inspect.signature(factory).parameters.values()
    defaults = {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not parameter.empty
    }
    return {key: _plain(value) for key, value in {**defaults, **options}.items()}


def _plain(value: Any) -> Any:
    """A value of a signature as JSON has it."""
    if isinstance(value, collections.abc.Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def typed_options(
    factory: Callable[..., Any], options: Mapping[str, Any], *, where: str
) -> dict[str, Any]:
    """The options as the signature's types; what it does not annotate, as it is.

    Raises:
      BrokenRule: an option of another type.
    """
    hints = _hints(factory)
    return {
        name: _as_hint(hints.get(name), f"{where}.{name}", value)
        for name, value in options.items()
    }


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(factory)
    except NameError:  # names inside aliases of optax that only its own modules know
        parameters = inspect.signature(factory).parameters.values()
        return {p.name: p.annotation for p in parameters}


def _as_hint(hint: Any, key: str, value: Any) -> Any:
    """`value` as a type of a signature; lists become tuples, which are hashable."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        kinds = [arg for arg in args if arg is not type(None)]
        if len(kinds) > 1 or (value is None and kinds != list(args)):
            return value  # of several kinds: its factory looks
        return _as_hint(kinds[0], key, value)
    if origin in (collections.abc.Sequence, tuple):
        if not isinstance(value, list | tuple):
            raise BrokenRule(key, "be a list", value)
        item = args[0] if args else None
        return tuple(_as_hint(item, f"{key}.{i}", v) for i, v in enumerate(value))
    if origin in (collections.abc.Mapping, dict):
        if not isinstance(value, collections.abc.Mapping):
            raise BrokenRule(key, "be a table", value)
        item = args[1] if args else None
        return {name: _as_hint(item, f"{key}.{name}", v) for name, v in value.items()}
    if hint in (bool, int, float, str) or origin is typing.Literal:
        return as_type(hint, key, value)
    return value
