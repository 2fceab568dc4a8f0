"""Configurations as plain mappings, the form of a suite file, and back.

A factory's options stand beside its name, as in TOML; what is None is absent.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from lopt.config.rules import BrokenRule
from lopt.config.schema import (
    DEFAULTS,
    AugmentConfig,
    ComponentConfig,
    OuterOptimizerConfig,
    RunConfig,
    SelectionConfig,
    TaskConfig,
    UnrollConfig,
)
from lopt.config.start import PretrainConfig, StartConfig
from lopt.config.sweep import swept
from lopt.errors import ConfigError, unknown_name


def to_dict(config: Any) -> dict[str, Any]:
    """The plain form of a configuration or of a part of one."""
    plain: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if f.name == "options":
            plain.update(copy.deepcopy(value))
        elif dataclasses.is_dataclass(value):
            plain[f.name] = to_dict(value)
        elif isinstance(value, tuple):
            plain[f.name] = [
                to_dict(item) if dataclasses.is_dataclass(item) else item
                for item in value
            ]
        elif value is not None:
            plain[f.name] = copy.deepcopy(value)
    return plain


def from_dict(mapping: Mapping[str, Any]) -> RunConfig:
    """The configuration of a plain mapping; `from_dict(to_dict(c)) == c`.

    Raises:
      ConfigError: an unknown key, a wrong type, a broken rule.
    """
    table = dict(mapping)
    for key, cls, defaults in (
        *((key, ComponentConfig, {"name": name}) for key, name in DEFAULTS.items()),
        ("unroll", UnrollConfig, {}),
        ("outer_optimizer", OuterOptimizerConfig, {}),
        ("augment", AugmentConfig, {}),
    ):
        if key in table:
            table[key] = _build(cls, _table(key, table[key]), key, defaults)
    if "selection" in table:
        selection = dict(_table("selection", table["selection"]))
        if "tasks" in selection:
            selection["tasks"] = _tasks(selection["tasks"], "selection.tasks")
        table["selection"] = _build(SelectionConfig, selection, "selection", {})
    table["tasks"] = _tasks(table.get("tasks", []), "tasks")
    return _build(RunConfig, table, "", {})


def _tasks(tasks: Any, where: str) -> list[TaskConfig]:
    if not isinstance(tasks, list | tuple):
        raise BrokenRule(where, f"be a list of tables `[[{where}]]`", tasks)
    found = []
    for i, task in enumerate(tasks):
        table = dict(_table(f"{where}.{i}", task))
        sweep = table.pop("sweep", {})
        found += swept(_task(table, f"{where}.{i}"), sweep, f"{where}.{i}.sweep")
    return found


def _task(task: Any, where: str) -> TaskConfig:
    table = dict(_table(where, task))
    if "start" in table:
        start, place = dict(_table(f"{where}.start", table["start"])), f"{where}.start"
        if "pretrain" in start:
            inner = f"{place}.pretrain"
            pretrain = _table(inner, start["pretrain"])
            start["pretrain"] = _build(PretrainConfig, pretrain, inner, {})
        table["start"] = _build(StartConfig, start, place, {})
    return _build(TaskConfig, table, where, {})


def _table(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        hint = f"write `{key}.name`" if key in ("optimizer", "estimator") else None
        raise BrokenRule(key, "be a table", value, hint=hint)
    return value


def _build(
    cls: type, mapping: Mapping[str, Any], where: str, defaults: dict[str, Any]
) -> Any:
    """`cls` from a table; keys that are no field's become options where it has them."""
    keys = [f.name for f in dataclasses.fields(cls)]
    given = {**defaults, **mapping}
    extra = {name: given.pop(name) for name in list(given) if name not in keys}
    if "options" in keys:
        if "options" in given:
            raise BrokenRule(
                f"{where}.options",
                "not be a table of its own",
                given["options"],
                hint=f"write the options beside the other keys of `{where}`",
            )
        given["options"] = extra
    elif extra:
        kind = f"key of `{where}`" if where else "key"
        raise unknown_name(kind, next(iter(extra)), keys)
    try:
        return cls(**given)
    except BrokenRule as error:
        raise error.within(where) from None
    except ConfigError as error:
        if not where:
            raise
        raise ConfigError(f"`{where}`: {error.message}", hint=error.hint) from None


def dotted(plain: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Every value of nested tables, legibly, by its keys joined by dots."""
    rows = []
    for key, value in plain.items():
        if isinstance(value, Mapping) and value:
            rows += dotted(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _legible(value)))
    return rows


def _legible(value: Any) -> Any:
    """Four digits of a number are enough for people; `--json` has them all."""
    if isinstance(value, list):
        return [_legible(item) for item in value]
    if value is None:
        return "–"
    return float(f"{value:.4g}") if isinstance(value, float) else value
