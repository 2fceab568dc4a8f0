"""From records of runs to the numbers that are reported."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lopt.base import Task
from lopt.evaluation import statistics
from lopt.evaluation.contest import Contender, Record
from lopt.evaluation.curves import point_steps
from lopt.evaluation.results import (
    Bound,
    BudgetResult,
    ContenderResult,
    Curve,
    Results,
    Settings,
    SpeedUp,
    TaskResult,
    Tuning,
    rivals,
    times,
)

NUM_RESAMPLES = 2000
"""Bootstrap samples of the reporting seeds."""


class Entry(NamedTuple):
    """What one contender did on one task."""

    records: list[Record]  # one for each run length, increasing
    milliseconds_per_step: float


class _Comparison(NamedTuple):
    """A speed-up and its bootstrap samples."""

    value: float
    censored: int
    samples: np.ndarray  # shape=[resamples]


def summarize(
    tasks: Sequence[Task],
    contenders: Sequence[Contender],
    entries: Mapping[tuple[int, int], Entry],
    settings: Settings,
    seconds: float,
) -> Results:
    """The results of an evaluation.

    Args:
      tasks: in order.
      contenders: the learned optimizer first.
      entries: by (task, contender).
      settings: what was asked for.
      seconds: what it took.
    """
    baselines = rivals({c.name: c.kind for c in contenders})
    comparisons: list[dict[str, _Comparison]] = []
    task_results = []
    for i, task in enumerate(tasks):
        row = {c.name: entries[i, j] for j, c in enumerate(contenders)}
        ours, *others = row
        budgets = [record.num_steps for record in row[ours].records]
        losses = {name: _losses(entry) for name, entry in row.items()}
        groups = {**{name: [name] for name in others}, "all": baselines}
        compared = {
            name: _compare(budgets, losses, ours, group, settings.seed)
            for name, group in groups.items()
        }
        comparisons.append(compared)
        task_results.append(_task_result(task, contenders, row, compared, baselines))
    return Results(
        optimizer=contenders[0].name,
        speed_up=_median([c["all"] for c in comparisons]),
        speed_up_over={
            c.name: _median([compared[c.name] for compared in comparisons])
            for c in contenders[1:]
        },
        tasks=tuple(task_results),
        settings=settings,
        seconds=seconds,
    )


def speed_up_over(
    task: TaskResult, ours: str, others: Sequence[str], seed: int
) -> SpeedUp:
    """The speed-up of any contender over the best of any others, from results.

    Args:
      task: where all of them ran.
      ours: a contender's name.
      others: other contenders' names.
      seed: of the bootstrap.
    """
    losses = {
        c.name: np.array([budget.losses for budget in c.budgets]) for c in task.contenders
    }
    budgets = [budget.num_steps for budget in task.contenders[0].budgets]
    return _speed_up(_compare(budgets, losses, ours, others, seed))


def _compare(
    budgets: Sequence[int],
    losses: Mapping[str, np.ndarray],
    ours: str,
    others: Sequence[str],
    seed: int,
) -> _Comparison:
    """From losses [budgets, seeds] by name."""
    steps = np.array(budgets)
    a, b = losses[ours], np.stack([losses[name] for name in others])
    found = statistics.speed_ups(steps, a.mean(-1), b.mean(-1))
    draws = statistics.resample(a.shape[-1], NUM_RESAMPLES, seed)
    samples = statistics.bootstrap_speed_ups(steps, a, b, draws)
    return _Comparison(float(found.value), int(found.censored), samples)


def _losses(entry: Entry) -> np.ndarray:
    """Results, [budgets, seeds]."""
    return np.stack([record.losses for record in entry.records]).astype(float)


def _speed_up(comparison: _Comparison) -> SpeedUp:
    bounds: dict[int, Bound] = {-1: "at most", 0: "exact", 1: "at least"}
    return SpeedUp(
        value=comparison.value,
        bound=bounds[comparison.censored],
        interval80=statistics.interval(comparison.samples, statistics.LEVELS[0]),
        interval95=statistics.interval(comparison.samples, statistics.LEVELS[1]),
    )


def _median(comparisons: Sequence[_Comparison]) -> SpeedUp:
    """Over tasks; a bound if the task in the middle, or one of the two, is one."""
    ranked = sorted(comparisons, key=lambda c: (c.value, c.censored))
    middle = {
        ranked[(len(ranked) - 1) // 2].censored,
        ranked[len(ranked) // 2].censored,
    }
    # With one of either sign the median of the two bounds is no bound: leave it exact.
    censored = next(iter(middle)) if len(middle) == 1 else sum(middle)
    samples = np.median([c.samples for c in comparisons], axis=0)
    value = float(np.median([c.value for c in comparisons]))
    return _speed_up(_Comparison(value, censored, samples))


def _task_result(
    task: Task,
    contenders: Sequence[Contender],
    row: Mapping[str, Entry],
    compared: Mapping[str, _Comparison],
    baselines: Sequence[str],
) -> TaskResult:
    ours = contenders[0].name
    lowest = {name: float(_losses(row[name])[-1].mean()) for name in row}
    reached = {name: float(_losses(row[name]).mean(-1).min()) for name in row}
    best_baseline = min(baselines, key=reached.__getitem__)
    speed_up = _speed_up(compared["all"])
    pace = [row[name].milliseconds_per_step for name in (best_baseline, ours)]
    seconds = speed_up.value * pace[0] / pace[1]
    return TaskResult(
        name=task.name,
        num_steps=row[ours].records[-1].num_steps,
        speed_up=speed_up,
        speed_up_over={
            name: _speed_up(c) for name, c in compared.items() if name != "all"
        },
        speed_up_seconds=seconds,
        best_baseline=best_baseline,
        winner=_winner(ours, best_baseline, speed_up, seconds),
        contenders=tuple(
            _contender_result(c, row[c.name], min(lowest.values())) for c in contenders
        ),
    )


def _winner(ours: str, best: str, speed_up: SpeedUp, seconds: float) -> str:
    """In words; `seconds` is the speed-up in time."""
    low, high = speed_up.interval80
    if low <= 1.0 <= high:
        return f"no clear winner between {ours} and {best}"
    if speed_up.value > 1:
        winner, loser, factor = ours, best, speed_up.value
        bound = {"exact": "", "at least": "at least ", "at most": "at most "}
    else:
        winner, loser, factor, seconds = best, ours, 1 / speed_up.value, 1 / seconds
        bound = {"exact": "", "at least": "at most ", "at most": "at least "}
    sign = bound[speed_up.bound]
    fewer = f"{sign}{times(factor)} times fewer steps"
    pace = f"{sign}{times(seconds)} times faster"
    if seconds < 1:
        pace = f"but {times(1 / seconds)} times slower"
    return f"{winner} wins: it reaches the result of {loser} in {fewer}, {pace}"


def _contender_result(
    contender: Contender, entry: Entry, best_loss: float
) -> ContenderResult:
    longest = entry.records[-1]
    steps = np.array(point_steps(longest.num_steps))
    mean_curve = np.asarray(longest.readings.test_loss.mean(axis=1))
    return ContenderResult(
        name=contender.name,
        kind=contender.kind,
        budgets=tuple(_budget_result(contender, record) for record in entry.records),
        milliseconds_per_step=entry.milliseconds_per_step,
        steps_to_110=statistics.first_below(steps, mean_curve, 1.10 * best_loss),
        steps_to_125=statistics.first_below(steps, mean_curve, 1.25 * best_loss),
        curve=_curve(steps, longest),
    )


def _budget_result(contender: Contender, record: Record) -> BudgetResult:
    accuracy = float(record.accuracies.mean())
    return BudgetResult(
        num_steps=record.num_steps,
        loss=float(record.losses.mean()),
        losses=tuple(record.losses.tolist()),
        accuracy=None if np.isnan(accuracy) else accuracy,
        num_diverged=int(record.diverged.sum()),
        tuning=_tuning(contender, record),
    )


def _tuning(contender: Contender, record: Record) -> Tuning | None:
    if record.tuned is None or record.chosen is None or contender.space is None:
        return None
    schedules = ("cosine", "constant")
    has_choice = len(contender.space.schedules) > 1
    return Tuning(
        learning_rate=record.chosen.learning_rate,
        weight_decay=record.chosen.weight_decay,
        schedule=schedules[record.chosen.constant] if has_choice else "own",
        valid_loss=record.tuned.score,
        num_points=len(record.tuned.scores),
        at_edge=record.tuned.at_edge,
    )


def _curve(steps: np.ndarray, record: Record) -> Curve:
    test = record.readings.test_loss
    return Curve(
        steps=tuple(steps.tolist()),
        train_median=_floats(np.median(record.readings.train_loss, axis=1)),
        valid_median=_floats(np.median(record.readings.valid_loss, axis=1)),
        test_median=_floats(np.median(test, axis=1)),
        test_low=_floats(np.quantile(test, 0.1, axis=1)),
        test_high=_floats(np.quantile(test, 0.9, axis=1)),
    )


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
