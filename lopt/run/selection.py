"""Selection: the best theta of a run, by whole inner runs on tasks of their own.

At some of a run's checkpoints theta, and its average where one is kept, trains every task
of the selection suite from start to end. The score is the mean logarithm of the loss on
`valid` after the last step, over tasks (weighted) and seeds; a run that diverged counts
with its task's `loss_bound`. Every selection uses the same seeds, which training does
not use: what differs between two scores is theta.

How often is decided by counts of inner steps, never by the clock: the inner steps of all
selections are at most a given share of those of training, and so are those that wait for
each other, which is what takes time where particles run side by side. What the last
checkpoint needs is kept in reserve.
"""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lopt import options
from lopt.base import Array, LearnedOptimizer, MetaParams, PRNGKey
from lopt.compiling import compile_lowered, mapped
from lopt.config import RunConfig, TaskConfig, Trust
from lopt.errors import ConfigError
from lopt.families import FAMILIES
from lopt.groups import by_program, stacked_data
from lopt.outer import Selected
from lopt.suites import SuiteTask, build_selection_tasks
from lopt.trainer import Trainer, TrainState
from lopt.unroll import unroll

SELECTION = 0x5E1EC7
"""Folded into the run's seed: the seeds of selection are nobody else's."""

Candidates = dict[str, MetaParams]
"""By name: "raw", and "average" where one is kept."""

Score = Callable[[Candidates], dict[str, dict[str, float]]]
"""Each candidate's score on each task, by name."""


@dataclass(frozen=True, kw_only=True)
class Selector:
    """Finds the best theta on the tasks of a selection suite.

    Attributes:
      lopt: what is trained.
      tasks: on which it is scored.
      seeds: runs of each task in one selection.
      share: of training's inner steps that selections may take.
      chain: inner steps of one outer step that wait for each other.
      key: what all seeds are derived from.
    """

    lopt: LearnedOptimizer
    tasks: tuple[SuiteTask, ...]
    seeds: int
    share: float
    chain: int
    key: PRNGKey

    def start(self, state: TrainState) -> TrainState:
        """The state with a place for the best theta; there is none yet."""
        none_yet = Selected(
            theta=state.theta,
            score=jnp.asarray(jnp.inf, jnp.float32),
            step=jnp.zeros((), jnp.int32),
            is_average=jnp.zeros((), bool),
            number=jnp.zeros((), jnp.int32),
            credit=jnp.zeros((), jnp.float32),
        )
        return state._replace(selected=none_yet)

    def cost(self, state: TrainState) -> int:
        """Inner steps of one selection."""
        steps = sum(entry.num_steps for entry in self.tasks)
        return steps * self.seeds * len(candidates(state))

    def is_due(self, state: TrainState, *, is_last: bool) -> bool:
        """Whether training has paid for a selection, and for the last one beside it."""
        wanted, before = 1 if is_last else 2, selected(state)
        paid = float(before.credit) * self.share >= wanted * self.cost(state)
        chain = sum(group[0].num_steps for group in self.groups())
        chains = (int(before.number) + wanted) * chain
        return paid and chains <= self.share * self.chain * int(state.step)

    def groups(self) -> list[list[SuiteTask]]:
        """The tasks by compiled program; whole runs of one length in each."""
        return by_program([_whole_runs(entry) for entry in self.tasks])

    def compile(self, state: TrainState) -> Score:
        """The program that scores candidates such as this state's."""
        count = math.gcd(len(jax.devices()), self.seeds)
        mesh = Mesh(jax.devices()[:count], ("seeds",))
        shared, replicated = (NamedSharding(mesh, spec) for spec in (P("seeds"), P()))
        groups = self.groups()
        thetas = jax.device_put(_stacked(candidates(state)), replicated)
        arrays, lowered = [], []
        for group, key in zip(
            groups, jax.random.split(self.key, len(groups)), strict=True
        ):
            keys = jax.random.split(key, (self.seeds, len(group)))
            data = jax.device_put(stacked_data(group), replicated)
            arrays.append((jax.device_put(keys, shared), data))
            losses = _final_losses(group, self.lopt, len(candidates(state)))
            lowered.append(jax.jit(losses).lower(thetas, *arrays[-1]))
        with ThreadPoolExecutor() as pool:
            programs = list(pool.map(compile_lowered, lowered))
        names = [entry.task.name for group in groups for entry in group]

        def score(thetas: Candidates) -> dict[str, dict[str, float]]:
            stack = jax.device_put(_stacked(thetas), replicated)
            running = [run(stack, *x) for run, x in zip(programs, arrays, strict=True)]
            # Seeds are averaged on the host: the same sum on any number of devices.
            losses_CxT = np.concatenate(
                [np.asarray(x, np.float64).mean(axis=0) for x in running], axis=-1
            )
            return {
                name: dict(zip(names, row.tolist(), strict=True))
                for name, row in zip(thetas, losses_CxT, strict=True)
            }

        return score

    def select(
        self, state: TrainState, score: Score
    ) -> tuple[TrainState, dict[str, Any]]:
        """The state with the best theta so far, and what selection.jsonl says of it."""
        started = time.perf_counter()
        found = candidates(state)
        task_scores = score(found)
        scores = {name: self._mean(by_task) for name, by_task in task_scores.items()}
        name = min(scores, key=scores.__getitem__)
        before, cost = selected(state), self.cost(state)
        now = before._replace(
            number=before.number + 1,
            credit=before.credit - np.float32(cost / self.share),
        )
        if scores[name] < float(before.score):
            now = now._replace(
                theta=found[name],
                score=np.float32(scores[name]),
                step=np.asarray(state.step),
                is_average=np.asarray(name == "average"),
            )
        now = jax.tree.map(lambda x, old: jax.device_put(x, old.sharding), now, before)
        line = {
            "step": int(state.step),
            "scores": scores,
            "task_scores": task_scores,
            "selected": describe(now),
            "inner_steps": cost,
            "seconds": time.perf_counter() - started,
        }
        return state._replace(selected=now), line

    def _mean(self, by_task: dict[str, float]) -> float:
        weights = [entry.weight for entry in self.tasks]
        values = [by_task[entry.task.name] for entry in self.tasks]
        return float(np.float32(np.average(values, weights=weights)))


def build_selector(
    config: RunConfig, trainer: Trainer, *, trust: Trust = False
) -> Selector | None:
    """The selector that a configuration describes, if any.

    Args:
      config: of the run.
      trainer: what `build` made of it.
      trust: whether Python files that it names may be run.

    Raises:
      ConfigError: a mistake in the selection suite, or one of its tasks is trained on.
    """
    _check_apart(config)
    tasks = build_selection_tasks(config, trust=trust)
    for i, entry in enumerate(tasks):
        if "valid" not in entry.task.splits:
            raise ConfigError(
                f"`selection.tasks.{i}` must have a split `valid`, task "
                f"`{entry.task.name}` has {', '.join(entry.task.splits)}"
            )
    if not tasks:
        return None
    return Selector(
        lopt=trainer.lopt,
        tasks=tuple(tasks),
        seeds=config.selection.seeds,
        share=config.selection.share,
        chain=config.unroll.length * trainer.groups_per_step,
        key=jax.random.fold_in(jax.random.key(config.seed), SELECTION),
    )


def candidates(state: TrainState) -> Candidates:
    """What may be selected."""
    return {"raw": state.theta} | ({"average": state.average} if state.average else {})


def selected(state: TrainState) -> Selected:
    """The best so far, of a state that has a place for it."""
    assert isinstance(state.selected, Selected)
    return state.selected


def describe(best: Selected) -> dict[str, Any] | None:
    """What has been selected, in plain values; None: nothing yet."""
    if not int(best.step):
        return None
    weights = "average" if best.is_average else "raw"
    return {"step": int(best.step), "weights": weights, "score": float(best.score)}


def chosen(state: TrainState) -> MetaParams:
    """The selected theta; without a selection the average or, without one, theta."""
    if isinstance(state.selected, Selected) and int(state.selected.step):
        return state.selected.theta
    return state.average or state.theta


def _check_apart(config: RunConfig) -> None:
    """Raises `ConfigError` if a task is both trained and selected on."""
    trained = [_identity(task) for task in config.tasks]
    for i, task in enumerate(config.selection.tasks):
        if _identity(task) in trained:
            same = trained.index(_identity(task))
            raise ConfigError(
                f"`selection.tasks.{i}` must not be a training task, got what "
                f"`tasks.{same}` is",
                hint=f"change suite `{config.selection.suite}`, or select on another",
            )


def _identity(task: TaskConfig) -> tuple[Any, ...]:
    """What a task is, all its options resolved."""
    family, given = task.family, task.options
    known = options.resolved(FAMILIES[family], given) if family in FAMILIES else given
    return family, task.file, known, task.start


def _whole_runs(entry: SuiteTask) -> SuiteTask:
    return replace(entry, min_steps=entry.num_steps, max_steps=entry.num_steps)


def _final_losses(group: list[SuiteTask], lopt: LearnedOptimizer, num_candidates: int):
    """`(thetas, keys, data) -> losses [seeds, candidates, tasks]`, their logarithms.

    Thetas have leaves [candidates, ...], keys are [seeds, tasks], data [tasks, ...].
    """
    task, num_steps = group[0].task, group[0].num_steps
    run = unroll(
        task,
        lopt,
        length=num_steps,
        min_steps=num_steps,
        max_steps=num_steps,
        meta_split="valid",
        meta_every=num_steps,
    )

    def final_loss(theta: MetaParams, key: PRNGKey, data: Any) -> Array:
        init_key, run_key = jax.random.split(key)
        state = run.init(theta, init_key, data, jnp.asarray(num_steps, jnp.int32))
        reading, _ = run.advance(theta, state, run_key, data)
        return reading.loss

    over_tasks = mapped(final_loss, (None, 0, 0), len(group))
    over_candidates = mapped(over_tasks, (0, None, None), num_candidates)
    return jax.vmap(over_candidates, in_axes=(None, 0, None))


def _stacked(thetas: Candidates) -> MetaParams:
    """On the host, leaves [candidates, ...]."""
    on_host: Sequence[MetaParams] = jax.device_get(list(thetas.values()))
    return jax.tree.map(lambda *xs: np.stack(xs), *on_host)
