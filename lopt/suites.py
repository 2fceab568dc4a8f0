"""From a suite's configuration to tasks that have been looked over.

A task comes from a family of ours, from an installed package (entry points of group
`lopt.tasks`), or from a Python file with a factory `task(**options) -> Task`. Such a
file is run only if it is trusted: `--trust`, or given on the command line by itself.
"""

import dataclasses
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from lopt import factories, options
from lopt.base import SPLITS, ParamSpec, Split, Task
from lopt.config import BrokenRule, PretrainConfig, RunConfig, TaskConfig, Trust
from lopt.errors import ConfigError
from lopt.families import FAMILIES
from lopt.finetuning import Notify, PretrainingTask, finetuned

GROUP = "lopt.tasks"
"""The entry point group in which an installed package offers task families."""


@dataclass(frozen=True)
class SuiteTask:
    """A task, and how a suite uses it.

    Attributes:
      task: the inner problem, named as in the suite.
      weight: of its meta-gradient, relative to the other tasks'.
      min_steps: shortest run in meta-training.
      max_steps: longest run in meta-training.
      num_steps: T, length of a run in evaluation.
      enters: the share of the outer steps before it takes part in meta-training.
    """

    task: Task
    weight: float
    min_steps: int
    max_steps: int
    num_steps: int
    enters: float = 0.0


def build_tasks(
    config: RunConfig, *, trust: Trust = False, notify: Notify | None = None
) -> list[SuiteTask]:
    """The tasks of a suite, in its order, each checked without compiling anything.

    What a task starts from is made if need be, after that task was checked.

    Args:
      config: the suite, resolved.
      trust: whether Python files that the suite names may be run.
      notify: told a line about what takes long.

    Raises:
      ConfigError: an unknown family or option, an untrusted or faulty file, a task that
        breaks its interface, or that does not fit what it starts from.
    """
    return _build_all(config.tasks, "tasks", trust, notify or _silent)


def build_selection_tasks(config: RunConfig, *, trust: Trust = False) -> list[SuiteTask]:
    """The tasks of the selection suite, likewise; none where there is no such suite."""
    return _build_all(config.selection.tasks, "selection.tasks", trust, _silent)


def _build_all(
    entries: Sequence[TaskConfig], where: str, trust: Trust, notify: Notify
) -> list[SuiteTask]:
    tasks, names = [], set()
    for i, entry in enumerate(entries):
        task = _build(entry, f"{where}.{i}", trust, notify)
        name = _free_name(entry.name or task.name, names)
        names.add(name)
        tasks.append(
            SuiteTask(
                task=replace(task, name=name),
                weight=entry.weight,
                min_steps=entry.min_steps,
                max_steps=entry.max_steps,
                num_steps=entry.num_steps,
                enters=entry.enters,
            )
        )
    return tasks


def _free_name(name: str, taken: set[str]) -> str:
    """`name`, numbered if another task has it: results are kept by name."""
    candidates = [name, *(f"{name}-{i}" for i in range(2, len(taken) + 2))]
    return next(c for c in candidates if c not in taken)


def _silent(text: str) -> None:
    del text


def _build(entry: TaskConfig, where: str, trust: Trust, notify: Notify) -> Task:
    if entry.file and not re.search(r"\.py(:\w+)?$", entry.file):
        raise BrokenRule(f"{where}.file", "name a Python file", entry.file)
    factory = factories.find(
        "task family",
        entry.file or entry.family or "",
        FAMILIES,
        group=GROUP,
        default="task",
        trust=trust,
    )
    task = _made(factory, entry.options, where, TaskConfig)
    return _started(task, entry, factory, f"{where}.start", notify)


def _started(
    task: Task, entry: TaskConfig, factory: factories.Factory, where: str, notify: Notify
) -> Task:
    """The task from its start, if the entry has one."""
    if entry.start is None:
        return task
    source, file = None, factories.file_of(factory)
    if entry.start.pretrain is not None:
        given = entry.options | entry.start.pretrain.options
        source = PretrainingTask(
            task=_made(factory, given, f"{where}.pretrain", PretrainConfig),
            family=entry.family or "",
            file=file and hashlib.sha256(file.read_bytes()).hexdigest(),
            options=options.resolved(factory, given),
        )
    try:
        return finetuned(task, entry.start, source, notify)
    except BrokenRule as error:
        raise error.within(where) from error
    except ConfigError as error:
        raise ConfigError(f"`{where}`: {error.message}", hint=error.hint) from error


def _made(
    factory: factories.Factory, given: dict[str, Any], where: str, config: type
) -> Task:
    """What the factory makes, checked.

    Args:
      factory: what is called.
      given: its options.
      where: the table that they are from, a `config`.
      config: whose fields are the other keys of that table.
    """
    keys = ["sweep", *(field.name for field in dataclasses.fields(config))]
    task = factories.call(factory, given, where=where, other_keys=keys)
    if not isinstance(task, Task):
        kind = type(task).__name__
        raise ConfigError(f"`{where}`: its factory must return a `Task`, got `{kind}`")
    with factories.blaming(factories.file_of(factory)):
        told = complaint(task)
    if told:
        raise ConfigError(f"`{where}`: task `{task.name}` {told}")
    return task


def complaint(task: Task) -> str | None:
    """What of its interface a task breaks, found from shapes alone; None if nothing."""
    if not 0 < task.loss_bound < math.inf:
        return f"must have a positive, finite `loss_bound`, got {task.loss_bound}"
    if not {"train"} <= {*task.splits} <= {*SPLITS}:
        known, got = ", ".join(SPLITS), ", ".join(task.splits) or "none"
        return f"must have `splits` out of {known}, with train, got {got}"
    key = jax.random.key(0)
    params, model_state = jax.eval_shape(task.init, key, task.data)
    if jax.tree.structure(task.specs) != jax.tree.structure(params):
        return "must have in `specs` one `ParamSpec` for each parameter"
    for spec, param in zip(*map(jax.tree.leaves, (task.specs, params)), strict=True):
        if not isinstance(spec, ParamSpec) or spec.shape != param.shape:
            return f"must have a `ParamSpec` of shape {param.shape}, got {spec}"
        if not jnp.issubdtype(param.dtype, jnp.floating):
            got = f"{param.dtype}{list(param.shape)}"
            return f"must have parameters in floating point, got {got}"
    for split in task.splits:
        for batch in _batches(task, split):
            result = jax.eval_shape(task.loss, params, model_state, batch, key)
            if told := _complaint_of_loss(result, model_state):
                return told
    return None


def _batches(task: Task, split: Split) -> tuple[Any, Any]:
    key = jax.random.key(0)
    batch = jax.eval_shape(lambda k, d: task.batch(k, d, split), key, task.data)
    return batch, jax.eval_shape(lambda d: task.eval_batch(d, split), task.data)


def _complaint_of_loss(result: Any, model_state: Any) -> str | None:
    match result:
        case (jax.ShapeDtypeStruct() as loss, (new_state, dict() as metrics)):
            if loss.shape or not jnp.issubdtype(loss.dtype, jnp.floating):
                return f"must have a scalar loss, got {loss.dtype}{list(loss.shape)}"
            if any(jax.tree.leaves(jax.tree.map(jnp.ndim, metrics))):
                return f"must have metrics that are scalars, got {metrics}"
            if _shapes(new_state) != _shapes(model_state):
                return "must return a model state of the shapes it was given"
            return None
    return "must have a `loss` that returns `(loss, (model_state, metrics))`"


def _shapes(tree: Any) -> Any:
    return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
