"""One task of a suite that stands for several: `sweep = { width = [16, 32] }`."""

import itertools
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import PurePath
from typing import Any

from lopt.config.rules import BrokenRule
from lopt.config.schema import TaskConfig


def swept(task: TaskConfig, sweep: Any, where: str) -> list[TaskConfig]:
    """The product of a task and lists of options, which share its weight evenly.

    A name is completed by the options. Who has none gets its family's, as any task does.

    Args:
      task: without the options that are swept over.
      sweep: lists of plain values, by option; `{}`: the task is alone.
      where: the dotted place of the sweep, for messages.

    Raises:
      BrokenRule: not lists of numbers, strings or booleans, or not of free options.
    """
    if not isinstance(sweep, Mapping):
        raise BrokenRule(where, "be a table", sweep)
    for option, values in sweep.items():
        _check(task, f"{where}.{option}", option, values)
    points = [
        dict(zip(sweep, p, strict=True)) for p in itertools.product(*sweep.values())
    ]
    return [_at(task, point, len(points)) for point in points]


def _at(task: TaskConfig, point: dict[str, Any], number: int) -> TaskConfig:
    """The task with these options, one of so many."""
    ends = [f"{option}-{_shown(value)}" for option, value in point.items()]
    return replace(
        task,
        name="-".join([task.name, *ends]) if task.name else None,
        weight=task.weight / number,
        options=task.options | point,
    )


def _check(task: TaskConfig, key: str, option: str, values: Any) -> None:
    plain = (bool, int, float, str)
    if not isinstance(values, list | tuple) or not values:
        raise BrokenRule(key, "be a list of at least one value", values)
    for i, value in enumerate(values):
        if not isinstance(value, plain):
            raise BrokenRule(f"{key}.{i}", "be a number, a string or a boolean", value)
        if value in values[:i]:
            raise BrokenRule(f"{key}.{i}", "be another value than those before", value)
    if option in {"sweep"} | {f.name for f in fields(TaskConfig)}:
        raise BrokenRule(key, "be an option of the family or the file", option)
    if option in task.options:
        raise BrokenRule(key, "not be given beside the sweep", task.options[option])


def _shown(value: Any) -> str:
    """Of a path its last part."""
    return str(value).lower() if isinstance(value, bool) else PurePath(str(value)).name
