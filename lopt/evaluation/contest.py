"""One optimizer on one task: tuned if it can be, then run on the reporting seeds.

Tuning reads `valid` on tuning seeds; reports read `test` at the step of the lowest
`valid` loss on other seeds. The same compiled program does both, at every budget: its
lanes are filled with points x seeds, and padded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lopt.base import Array, Data, LearnedOptimizer, MetaParams, PRNGKey, Task
from lopt.compiling import compile_lowered
from lopt.evaluation.curves import NEVER, NUM_POINTS, Curves, Reading, curves
from lopt.evaluation.results import Kind
from lopt.evaluation.tuning import Hyperparameters, Point, SearchSpace, Tuned, search

TUNING_READ_EVERY = 4
"""Tuning reads `valid` at 25 points: reading costs as much as a few steps."""

LONG = 30.0
"""Seconds, after which no further measurement of the time of a step is begun."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """An optimizer in the contest; its theta is known, or searched for in a space."""

    name: str
    kind: Kind
    lopt: LearnedOptimizer
    theta: MetaParams | None = None
    space: SearchSpace | None = None

    @property
    def any_theta(self) -> MetaParams:
        """Its theta, or the one at the center of its space."""
        if self.theta is not None:
            return self.theta
        assert self.space is not None, "a contender has a theta or a space"
        return hand_designed_theta(self.space.values(self.space.center))


class Record(NamedTuple):
    """What a contender did with one budget."""

    num_steps: int
    losses: np.ndarray  # shape=[seeds], test loss at the lowest valid loss
    accuracies: np.ndarray  # shape=[seeds]
    diverged: np.ndarray  # shape=[seeds], bool
    readings: Reading  # leaves [points, seeds]
    tuned: Tuned | None
    chosen: Hyperparameters | None


@dataclass(frozen=True)
class Program:
    """A compiled program, fed with any number of runs.

    Attributes:
      compiled: `curves` for a fixed number of lanes.
      lanes: that number.
      device: where it runs.
    """

    compiled: Callable[..., Curves]
    lanes: int
    device: Any

    def __call__(
        self,
        thetas: MetaParams,
        keys: PRNGKey,
        num_steps: int,
        data: Data,
        *,
        read_every: int = 1,
        read_test: bool = False,
    ) -> Curves:
        """Curves of all runs, as numpy; thetas and keys have a leading axis of runs."""
        parts = []
        for start in range(0, keys.shape[0], self.lanes):
            rows = np.arange(start, start + self.lanes).clip(max=keys.shape[0] - 1)
            lanes = jax.tree.map(lambda x, rows=rows: x[rows], (thetas, keys))
            limits = _limits(num_steps, read_every, read_test)
            args = jax.device_put((*lanes, *limits, data), self.device)
            parts.append(jax.device_get(self.compiled(*args)))
        num_runs = keys.shape[0]
        return jax.tree.map(lambda *x: np.concatenate(x, axis=-1)[..., :num_runs], *parts)


def compile_program(
    task: Task, lopt: LearnedOptimizer, theta: MetaParams, lanes: int, device: Any
) -> Program:
    """The program of a task and an optimizer, for theta like this one."""
    thetas = repeat(theta, lanes)
    keys = jax.random.split(jax.random.key(0), lanes)
    args = jax.device_put((thetas, keys, *_limits(1, 1, True), task.data), device)
    lowered = jax.jit(curves(task, lopt)).lower(*args)
    return Program(compile_lowered(lowered), lanes, device)


def repeat(theta: MetaParams, count: int) -> MetaParams:
    """Theta for `count` lanes: leaves [count, ...]."""
    return jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x)[None], count, 0), theta)


def hand_designed_theta(values: Hyperparameters) -> MetaParams:
    """Theta of a hand-designed optimizer."""
    return {k: jnp.asarray(v, jnp.float32) for k, v in values._asdict().items()}


def hand_designed_thetas(values: Sequence[Hyperparameters]) -> MetaParams:
    """The same with a leading axis, one lane for each of the values."""
    columns = np.asarray(values, np.float32).T
    names = Hyperparameters._fields
    return {name: jnp.asarray(x) for name, x in zip(names, columns, strict=True)}


def compete(
    program: Program,
    contender: Contender,
    task: Task,
    budgets: Sequence[int],
    *,
    trials: int,
    tuning_keys: PRNGKey,
    keys: PRNGKey,
    on_budget: Callable[[int], None],
) -> list[Record]:
    """One contender on one task at every budget, tuned anew for each.

    Args:
      program: of the contender's optimizer and the task's functions.
      contender: the optimizer.
      task: the task.
      budgets: run lengths, increasing; each search starts from the optimum before it.
      trials: points of each search.
      tuning_keys: seeds that are tuned on: one half in searches, the other in finals.
      keys: seeds that are reported.
      on_budget: told each run length when it is done.
    """
    records: list[Record] = []
    num_search = tuning_keys.shape[0] // 2
    center: Point | None = None
    for num_steps in budgets:
        tuned, chosen, theta = None, None, contender.theta
        if contender.space is not None:
            score, final_score = (
                _score(program, contender.space, task, num_steps, part)
                for part in (tuning_keys[:num_search], tuning_keys[num_search:])
            )
            tuned = search(contender.space, trials, score, final_score, center=center)
            # A schedule that won by luck must not keep the next search from the other.
            center = tuned.point._replace(constant=contender.space.center.constant)
            chosen = contender.space.values(tuned.point)
            theta = hand_designed_theta(chosen)
        assert theta is not None, "a contender has a theta or a space"
        thetas = repeat(theta, keys.shape[0])
        result = program(thetas, keys, num_steps, task.data, read_test=True)
        records.append(_record(task, num_steps, result, tuned, chosen))
        on_budget(num_steps)
    return records


def _limits(num_steps: int, read_every: int, read_test: bool) -> tuple[Array, ...]:
    steps, every = jnp.asarray(num_steps, jnp.int32), jnp.asarray(read_every, jnp.int32)
    return steps, every, jnp.asarray(read_test)


def _score(
    program: Program, space: SearchSpace, task: Task, num_steps: int, keys: PRNGKey
) -> Callable[[Sequence[Point]], list[float]]:
    """Lowest valid loss of a run, averaged over the tuning seeds."""

    def score(points: Sequence[Point]) -> list[float]:
        values = [space.values(p) for p in points for _ in range(keys.shape[0])]
        every_key = keys[np.tile(np.arange(keys.shape[0]), len(points))]
        result = program(
            hand_designed_thetas(values),
            every_key,
            num_steps,
            task.data,
            read_every=TUNING_READ_EVERY,
        )
        lowest = result.readings.valid_loss.min(axis=0)
        lowest = np.where(result.diverged, task.loss_bound, lowest)
        return lowest.reshape(len(points), -1).mean(axis=1).tolist()

    return score


def _record(
    task: Task,
    num_steps: int,
    result: Curves,
    tuned: Tuned | None,
    chosen: Hyperparameters | None,
) -> Record:
    best = result.readings.valid_loss.argmin(axis=0)
    runs = np.arange(best.shape[0])
    return Record(
        num_steps=num_steps,
        losses=np.where(
            result.diverged, task.loss_bound, result.readings.test_loss[best, runs]
        ),
        accuracies=np.asarray(result.readings.test_accuracy[best, runs]),
        diverged=np.asarray(result.diverged),
        readings=result.readings,
        tuned=tuned,
        chosen=chosen,
    )


def milliseconds_per_step(
    program: Program, theta: MetaParams, task: Task, num_steps: int, clock
) -> float:
    """Time of a step of one run while `program.lanes` run side by side, nothing read.

    The best of three measurements, or of fewer where they take long.

    Args:
      program: compiled.
      theta: of one run.
      task: its data are used.
      num_steps: a run length.
      clock: seconds, monotonic.
    """
    keys = jax.random.split(jax.random.key(0), program.lanes)
    thetas = repeat(theta, program.lanes)
    times = []
    for _ in range(3):
        start = clock()
        program(thetas, keys, num_steps, task.data, read_every=NEVER)
        times.append(clock() - start)
        if sum(times) > LONG:
            break
    return 1000 * min(times) / (num_steps * program.lanes)


assert NUM_POINTS % TUNING_READ_EVERY == 0, "the end of a run is read"
