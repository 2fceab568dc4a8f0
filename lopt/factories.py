"""Finding a factory by name, wherever a suite names one, and calling it with options.

A name is a key of a registry, an installed entry point, or `path/to/file.py:factory`.
What goes wrong in a user's file is told in one line, with that file's line number.
"""

import hashlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from lopt.config import BrokenRule, Trust, trusts
from lopt.errors import ConfigError, LoptError, unknown_name

Factory = Callable[..., Any]

_FILE = re.compile(r"(?P<path>.+\.py)(:(?P<factory>\w+))?")


def find(
    kind: str,
    name: str,
    registry: Mapping[str, Factory],
    *,
    group: str,
    default: str = "",
    trust: Trust = False,
) -> Factory:
    """The factory that a suite names.

    Args:
      kind: what the name should name, e.g. "task family".
      name: a key of the registry, an entry point, or `path/to/file.py:factory`.
      registry: our own factories.
      group: the entry point group in which packages add theirs.
      default: the factory of a file that is named without one; "": one must be named.
      trust: whether a Python file may be run.

    Raises:
      ConfigError: an unknown name, an untrusted file, or one that cannot be run.
    """
    if name in registry:
        return registry[name]
    if match := _FILE.fullmatch(name):
        if not trusts(trust, match["path"]):
            raise ConfigError(
                f"a suite may run a Python file only if trusted, got `{match['path']}`",
                hint="read the file, then add `--trust`",
            )
        return _function(match["path"], match["factory"] or default)
    installed = {e.name: e for e in importlib.metadata.entry_points(group=group)}
    if name in installed:
        return _installed(installed[name])
    raise unknown_name(kind, name, {*registry, *installed})


def python_file(name: str) -> Path | None:
    """The Python file of `path/to/file.py:factory`; None for other names."""
    match = _FILE.fullmatch(name)
    return Path(match["path"]) if match else None


def file_hash(name: str) -> str | None:
    """SHA-256 of the Python file that a name is about; None where it is about none."""
    file = python_file(name)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file else None


def call(
    factory: Factory,
    options: Mapping[str, Any],
    *,
    where: str,
    other_keys: Iterable[str] = (),
) -> Any:
    """`factory(**options)`, after a look at its signature.

    Args:
      factory: what is called.
      options: keyword arguments.
      where: the table of the suite that the options are from, e.g. "tasks.0".
      other_keys: keys of that table that are not options, for the nearest match.

    Raises:
      ConfigError: an unknown or a missing option, or the factory's own complaint.
    """
    parameters = inspect.signature(factory).parameters
    any_option = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option in options:
        if option not in parameters and not any_option:
            known = {*parameters, *other_keys}
            raise unknown_name(f"key of `{where}`", option, known)
    for option, parameter in parameters.items():
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and option not in options:
            if not variadic:
                raise ConfigError(f"`{where}.{option}` must be given, got nothing")
    try:
        with blaming(file_of(factory)):
            return factory(**options)
    except BrokenRule as error:
        raise error.within(where) from error
    except ConfigError as error:
        message = f"`{where}`: {error.message}"
        raise ConfigError(message, hint=error.hint) from error


def taken(factory: Factory, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of another factory's options, its `locals()`, that this one has, too."""
    names = inspect.signature(factory).parameters
    return {name: options[name] for name in names if name in options}


def file_of(factory: Factory) -> Path | None:
    """The file to blame for what a factory does; None for lopt's own."""
    while isinstance(factory, partial):
        factory = factory.func
    module = inspect.getmodule(factory)
    if module is None or module.__name__.partition(".")[0] == "lopt":
        return None
    return Path(inspect.getfile(module)).absolute()


@contextmanager
def blaming(file: Path | None) -> Iterator[None]:
    """Turns an exception into one line about `file`; None: lets it pass.

    Raises:
      ConfigError: the file, the line where it failed, and why.
    """
    try:
        yield
    except Exception as error:
        if file is None:
            raise
        hint = error.hint if isinstance(error, LoptError) else None
        raise ConfigError(_told(error, str(file)), hint=hint) from error


def _told(error: Exception, file: str | None) -> str:
    """Why, after the file to blame and the line where it failed, if there is one."""
    if file is None:
        return _reason(error)
    line = _line(error, file)
    return f"`{file}`" + (f" line {line}" if line else "") + f": {_reason(error)}"


def _line(error: Exception, file: str) -> int | None:
    """Number of the innermost line of a file that an exception passed through."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((f.lineno for f in reversed(frames) if f.filename == file), None)


def _reason(error: Exception) -> str:
    if isinstance(error, LoptError):
        return error.message
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    first = message.strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _installed(point: importlib.metadata.EntryPoint) -> Factory:
    """What an entry point names, or one line about the package that offers it."""
    where = f"entry point `{point.name}` (`{point.value}`)"
    try:
        factory = point.load()
    except Exception as error:
        file = _file_in_package(error, point.module.split(".")[0])
        message = f"{where} cannot be imported: {_told(error, file)}"
        raise ConfigError(message) from error
    if not callable(factory):
        kind = type(factory).__name__
        raise ConfigError(f"{where} must be a function, got `{kind}`")
    return factory


def _file_in_package(error: Exception, package: str) -> str | None:
    """The innermost file of an installed package that an exception passed through."""
    if isinstance(error, SyntaxError):
        return error.filename
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [f.f_globals.get("__name__", "").split(".")[0] for f in frames]
    own = [f for f, name in zip(frames, names, strict=True) if name == package]
    return own[-1].f_code.co_filename if own else None


def _function(path: str, name: str) -> Factory:
    if not name:
        hint = f"write `{path}:NAME`"
        raise ConfigError(f"`{path}` must be given with a function's name", hint=hint)
    try:
        modified = Path(path).stat().st_mtime_ns
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"cannot read `{path}`: {reason}") from None
    module = _load(Path(path).absolute(), modified)
    function = getattr(module, name, None)
    if not callable(function):
        functions = inspect.getmembers(module, inspect.isfunction)
        known = [n for n, f in functions if f.__module__ == module.__name__]
        raise unknown_name(
            f"function of `{path}`", name, known, hint=f"define `{name}` in the file"
        )
    return function


@cache
def _load(path: Path, modified: int) -> ModuleType:
    """Runs a file as a module, once: tasks from one file then share functions."""
    name = f"{path.stem}_{modified}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their module up
    sys.path.append(str(path.parent))  # for the modules beside it
    try:
        with blaming(path):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module
