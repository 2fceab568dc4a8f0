"""Tasks that share one compiled program: their data are stacked and vmapped over."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lopt.base import Data, GradientEstimator, Task
from lopt.compiling import mapped
from lopt.data import data_hash
from lopt.suites import SuiteTask


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that share one compiled program.

    Attributes:
      task: stands for all of them; its own data are not used.
      names: of the tasks.
      data: leaves [tasks, ...]; of streamed tasks the first chunk, on the host.
      weights: of the tasks in the meta-loss; over all groups they sum to one.
      estimator: for one task.
      enters: the share of the outer steps before they take part.
      streams: of the tasks; `()`: none of them is streamed.
    """

    task: Task
    names: tuple[str, ...]
    data: Data
    weights: tuple[float, ...]
    estimator: GradientEstimator
    enters: float = 0.0
    streams: tuple[Callable[[int], Data], ...] = ()

    def chunk(self, number: int) -> Data:
        """The data with this chunk of each task."""
        if not self.streams:
            return self.data
        datas = [stream(number) for stream in self.streams]
        return jax.tree.map(
            lambda first, *arrays: (
                first if isinstance(first, jax.Array) else np.stack(arrays)
            ),
            self.data,
            *datas,
        )


def group_tasks(
    tasks: Sequence[SuiteTask],
    make_estimator: Callable[[SuiteTask], GradientEstimator],
) -> tuple[TaskGroup, ...]:
    """Tasks grouped by what their compiled program depends on."""
    total = sum(entry.weight for entry in tasks)
    return tuple(
        TaskGroup(
            task=group[0].task,
            names=tuple(entry.task.name for entry in group),
            data=stacked_data(group),
            weights=tuple(entry.weight / total for entry in group),
            estimator=make_estimator(group[0]),
            enters=group[0].enters,
            streams=_streams(group),
        )
        for group in by_program(tasks)
    )


def _streams(tasks: Sequence[SuiteTask]) -> tuple[Callable[[int], Data], ...]:
    given = [entry.task for entry in tasks]
    if not any(task.stream for task in given):
        return ()
    return tuple(task.stream or (lambda _, data=task.data: data) for task in given)


def data_hashes(group: TaskGroup) -> dict[str, str]:
    """By task, the hash of its data: of a streamed one, of its fixed splits and the first
    chunk. Which examples these hold depends on how many there are.
    """
    stacked = jax.tree.map(np.asarray, group.data)
    return {
        name: data_hash(jax.tree.map(lambda x, i=i: x[i], stacked))
        for i, name in enumerate(group.names)
    }


def by_program(tasks: Sequence[SuiteTask]) -> list[list[SuiteTask]]:
    """Tasks grouped by what their compiled program depends on, run lengths included.

    Tasks that enter at different times are groups of their own: a group enters as one.
    """
    members: dict[tuple, list[SuiteTask]] = {}
    for entry in tasks:
        members.setdefault(_program_key(entry), []).append(entry)
    return list(members.values())


def _program_key(entry: SuiteTask) -> tuple:
    task = entry.task
    specs, specs_def = jax.tree.flatten(task.specs)
    data, data_def = jax.tree.flatten(task.data)
    shapes = tuple((x.shape, str(x.dtype)) for x in data)
    functions = (task.init, task.batch, task.eval_batch, task.loss)
    told = (entry.min_steps, entry.max_steps, task.loss_bound, task.splits)
    told += (entry.enters,)
    return (functions, tuple(specs), specs_def, shapes, data_def, told)


def stacked_data(tasks: Sequence[SuiteTask]) -> Data:
    """The data of tasks of one group: leaves [tasks, ...]."""
    is_streamed = any(entry.task.stream for entry in tasks)

    def stacked(*arrays: Any) -> Any:
        # A chunk must not stay on the device once the next one is there.
        is_chunk = is_streamed and any(isinstance(x, np.ndarray) for x in arrays)
        return np.stack(arrays) if is_chunk else jnp.stack(arrays)

    return jax.tree.map(stacked, *[entry.task.data for entry in tasks])


def over_tasks(function, group: TaskGroup):
    """`(theta, ...)` for one task -> for the stacked tasks of a group, but one theta."""

    def over(theta, *stacked):
        axes = (None, *[0] * len(stacked))
        return mapped(function, axes, len(group.names))(theta, *stacked)

    return over
