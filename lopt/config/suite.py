"""A suite by name or path, and overrides, to a configuration.

A Python file, a dataset or a file of parameters that a suite names is looked up beside
the suite, one that an override names in the current folder; all are made absolute, so
that a run can be resumed from anywhere.
"""

import dataclasses
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lopt.config.plain import from_dict
from lopt.config.released import released
from lopt.config.rules import BrokenRule
from lopt.config.schema import DEFAULTS, RunConfig, SelectionConfig
from lopt.errors import ConfigError, unknown_name

Trust = bool | frozenset[Path]
"""Whether Python files may be run: all, none, or these, by their resolved paths."""

_PYTHON_FILE = re.compile(r"(?P<file>.+\.py)(?P<factory>:\w+)?")


def load_suite(suite: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration that a suite and overrides describe.

    Args:
      suite: a released suite's name, the path of a TOML file, or the path of a Python
        file with a factory `task`: a suite of that one task. A path wins over a name.
      overrides: `dotted.key=value`, the value in TOML or a bare word; the last wins.
        Another `optimizer.name` or `estimator.name` than the suite's drops the suite's
        other keys of that table, which are options of another factory.

    Raises:
      ConfigError: an unreadable suite, an unknown key, a wrong type, a broken rule.
    """
    path = _find(str(suite))
    table = _read(path)
    _resolve(table, path.parent)
    for override in overrides:
        _apply(table, override)
    _resolve(table, Path())
    _add_selection(table)
    if "suite" in table:
        known = {f.name for f in dataclasses.fields(RunConfig)} - {"suite"}
        raise unknown_name("key", "suite", known, hint="lopt sets it by itself")
    return from_dict({"suite": str(suite), **table})


def is_data_path(dataset: str) -> bool:
    """Whether a dataset is named by its path: names have neither `/` nor suffix."""
    return "/" in dataset or Path(dataset).is_absolute() or bool(Path(dataset).suffix)


def parse_overrides(overrides: Sequence[str], *, example: str) -> dict[str, Any]:
    """The table that overrides describe by themselves, without a suite.

    Args:
      overrides: as in `load_suite`.
      example: a well-formed one, for the hint.

    Raises:
      ConfigError: an override has another form.
    """
    table: dict[str, Any] = {}
    for override in overrides:
        _apply(table, override, example)
    return table


def python_files(config: RunConfig) -> tuple[str, ...]:
    """The Python files that a run of this configuration would execute."""
    named = [config.optimizer.name, config.estimator.name]
    for task in (*config.tasks, *config.selection.tasks):
        named += [task.file, task.family]
    matches = [_PYTHON_FILE.fullmatch(name) for name in named if name]
    return tuple(dict.fromkeys(m["file"] for m in matches if m))


def trusts(trust: Trust, file: str | Path) -> bool:
    """Whether a Python file may be run."""
    return trust if isinstance(trust, bool) else Path(file).resolve() in trust


def check_trust(suite: str | Path, config: RunConfig, *, trust: bool = False) -> Trust:
    """Which of the Python files that a configuration names a run may execute.

    A file that was given by hand, in place of a suite or in an override, is trusted. One
    that a suite file names is not: a suite from a stranger must not run code. Nor is one
    that weights from a stranger name, whatever else was given by hand.

    Args:
      suite: what `config` was loaded from.
      config: what `load_suite` returned.
      trust: whether the user trusts all.

    Raises:
      ConfigError: the suite names a Python file and is not trusted.
    """
    if trust:
        return True
    files = python_files(config)
    for name in _named_by_files(suite, config):
        match = _PYTHON_FILE.fullmatch(name)
        if match and match["file"] in files:
            raise ConfigError(
                f"suite `{suite}` would run the Python file `{match['file']}`",
                hint="read that file; if you trust it, pass `--trust`",
            )
    return frozenset(Path(file).resolve() for file in files)


def _named_by_files(suite: str | Path, config: RunConfig) -> list[str]:
    """What suite files name, which may be Python files, and the user did not give."""
    path, named, selection = _find(str(suite)), [], ""
    if path.suffix != ".py":
        table = _read(path)
        _resolve(table, path.parent)
        named = [part[key] for _, part, key in _names(table)]
        part = table.get("selection")
        selection = part.get("suite") if isinstance(part, dict) else ""
    by_hand = config.selection.suite != selection
    if not (by_hand and Path(config.selection.suite).suffix == ".py"):
        named += [task.file or task.family or "" for task in config.selection.tasks]
    return named


def _find(name: str) -> Path:
    path = Path(name)
    if path.is_file() or path.suffix in (".toml", ".py") or len(path.parts) != 1:
        return path
    return released("tasks", name)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix == ".py":
            return {"tasks": [{"file": path.name}]}
        return tomllib.loads(text)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(
            f"cannot read suite `{path}`: {reason}",
            hint="`lopt list suites` names the released ones",
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"suite `{path}` is not a text file") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"suite `{path}` is not valid TOML: {error}") from None


def _resolve(table: dict[str, Any], folder: Path) -> None:
    """Makes the files that a suite's table names absolute, in place."""
    for where, part, key in _names(table):
        match = _PYTHON_FILE.fullmatch(part[key])
        if match:
            file = (folder / match["file"]).absolute()
            if not file.is_file():
                raise BrokenRule(f"{where}.{key}", "name a file that exists", part[key])
            part[key] = f"{file}{match['factory'] or ''}"
    for part, key in _data_places(table):
        part[key] = str((folder / os.path.expanduser(part[key])).absolute())
    part = table.get("selection")
    if isinstance(part, dict) and isinstance(part.get("suite"), str):
        path = folder / part["suite"]
        if path.is_file() or path.suffix in (".toml", ".py"):
            part["suite"] = str(path.absolute())


def _data_places(table: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Every place in a suite's table that names data by their path."""
    for task in _tables(table.get("tasks")):
        starts = _tables([task.get("start")])
        for start in starts:
            if isinstance(start.get("file"), str) and start["file"]:
                yield start, "file"
        family = task.get("family")
        if isinstance(family, str) and not _PYTHON_FILE.fullmatch(family):
            pretrain = _tables([start.get("pretrain") for start in starts])
            places = [(part, "dataset") for part in (task, *pretrain)]
            for sweep in _tables([task.get("sweep")]):
                swept = sweep.get("dataset")
                is_list = isinstance(swept, list)
                places += [(swept, i) for i in range(len(swept) if is_list else 0)]
            for part, key in places:  # options of files are theirs
                dataset = part[key] if isinstance(part, list) else part.get(key)
                if isinstance(dataset, str) and is_data_path(dataset):
                    yield part, key


def _tables(items: Any) -> list[dict[str, Any]]:
    """The tables of a list; what is wrong with others is told later."""
    return [x for x in items if isinstance(x, dict)] if isinstance(items, list) else []


def _add_selection(table: dict[str, Any]) -> None:
    """Puts the tasks of the selection suite into a suite's table, in place."""
    part = table.get("selection")
    if not isinstance(part, dict):
        return
    if "tasks" in part:
        known = {f.name for f in dataclasses.fields(SelectionConfig)} - {"tasks"}
        hint = "name a suite that has them: `selection.suite`"
        raise unknown_name("key of `selection`", "tasks", known, hint=hint)
    if not isinstance(part.get("suite"), str) or not part["suite"]:
        return
    try:
        path = _find(part["suite"])
        selection = _read(path)
        _resolve(selection, path.parent)
    except ConfigError as error:
        message = f"`selection.suite`: {error.message}"
        raise ConfigError(message, hint=error.hint) from None
    part["tasks"] = selection.get("tasks", [])


def _names(table: dict[str, Any]):
    """Every place in a suite's table that may name a Python file."""
    tasks = table.get("tasks")
    places = [
        ("optimizer", table.get("optimizer")),
        ("estimator", table.get("estimator")),
    ]
    if isinstance(tasks, list):
        places += [(f"tasks.{i}", task) for i, task in enumerate(tasks)]
    for where, part in places:
        for key in ("file", "family") if where.startswith("tasks") else ("name",):
            if isinstance(part, dict) and isinstance(part.get(key), str):
                yield where, part, key


def _apply(
    table: dict[str, Any], override: str, example: str = "unroll.length=25"
) -> None:
    """Sets one `dotted.key=value` in a suite's table, in place."""
    dotted, equals, text = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys):
        raise ConfigError(
            f"`--set` must have the form key=value, got `{override}`",
            hint=f"for example `--set {example}`",
        )
    value = _parse(dotted.strip(), text.strip())
    part: Any = table
    for depth, key in enumerate(keys[:-1]):
        place = _place(part, key, keys[: depth + 1])
        part = part.setdefault(place, {}) if isinstance(part, dict) else part[place]
    last = _place(part, keys[-1], keys)
    component = keys[0] if keys[1:] == ["name"] else ""
    if component in DEFAULTS and part.get("name", DEFAULTS[component]) != value:
        part.clear()
    part[last] = value


def _place(part: Any, key: str, keys: list[str]) -> str | int:
    """What indexes a table, or a list, under the last of some dotted keys."""
    if isinstance(part, dict):
        return key
    if not isinstance(part, list):
        raise BrokenRule(".".join(keys[:-1]), "be a table", part)
    if not key.isdecimal() or int(key) >= len(part):
        rule = f"end in a place of the list, 0 … {len(part) - 1}"
        raise BrokenRule(".".join(keys), rule, key)
    return int(key)


def _parse(key: str, text: str) -> Any:
    """A value in TOML, or a bare word as a string."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError) as error:
        if not text or text[0] in "[{\"'":
            raise BrokenRule(key, f"have a value in TOML ({error})", text) from None
        return text
    value = parsed.pop("value")
    return text if parsed or not isinstance(value, _TOML) else value


_TOML = (bool, int, float, str, list, dict)  # not dates: these are bare words
