"""What a comparison is to do, and which parts of it share a compiled program."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lopt.base import Task
from lopt.evaluation.contest import Contender
from lopt.evaluation.results import Settings
from lopt.evaluation.tuning import NUM_FINALISTS
from lopt.suites import SuiteTask

Pair = tuple[int, int]
"""Positions of a task and of a contender."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """All that is to be done."""

    tasks: tuple[SuiteTask, ...]
    contenders: tuple[Contender, ...]
    lengths: tuple[tuple[int, ...], ...]  # run lengths of each task
    settings: Settings

    def groups(self) -> list[list[Pair]]:
        """(task, contender) pairs, those that share a program together."""
        groups: dict[tuple, list[Pair]] = {}
        for i, task in enumerate(self.tasks):
            for j, contender in enumerate(self.contenders):
                key = (
                    _shape(task.task),
                    contender.lopt,
                    _signature(contender.any_theta),
                )
                groups.setdefault(key, []).append((i, j))
        # Long ones first, so that the last worker is not left alone with one.
        return sorted(groups.values(), key=lambda pairs: -sum(map(self.units, pairs)))

    def units(self, pair: Pair) -> int:
        """Steps of runs that a pair will take, extensions of the grid left out."""
        return sum(self.budget_units(pair, length) for length in self.lengths[pair[0]])

    def budget_units(self, pair: tuple[int, int], num_steps: int) -> int:
        """The same for one run length."""
        settings, tuned = self.settings, self.contenders[pair[1]].space is not None
        points = (settings.trials + NUM_FINALISTS) * tuned
        runs = settings.seeds + points * settings.tuning_seeds
        return runs * num_steps


def _shape(task: Task) -> tuple:
    """What two tasks must have in common to share a compiled program."""
    functions = (task.init, task.batch, task.eval_batch, task.loss, task.loss_bound)
    specs, treedef = jax.tree.flatten(task.specs)
    return *functions, tuple(specs), treedef, _signature(task.data)


def _signature(tree: Any) -> tuple:
    leaves, treedef = jax.tree.flatten(tree)
    return treedef, tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)
