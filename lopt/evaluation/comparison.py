"""Learned against hand-designed optimizers, budget for budget.

Every optimizer trains every task with several budgets, in the same inner loop
(curves.py). Baselines are tuned anew for each budget (tuning.py, contest.py), then all
run on the same reporting seeds, and budgets are compared (statistics.py). Programs of
different tasks and optimizers are compiled and run side by side, in threads; tasks of
one shape share them. Nothing here reads or writes anything but its arguments.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax

from lopt.base import LearnedOptimizer, MetaParams
from lopt.errors import ConfigError
from lopt.evaluation.baselines import (
    DEFAULT_BASELINES,
    Baseline,
    Control,
    baseline,
)
from lopt.evaluation.contest import (
    Contender,
    Program,
    Record,
    compete,
    compile_program,
    milliseconds_per_step,
)
from lopt.evaluation.results import Results, Settings
from lopt.evaluation.summary import Entry, summarize
from lopt.evaluation.work import Pair, Work
from lopt.evaluation.workers import Notify, run_jobs
from lopt.suites import SuiteTask

BUDGETS = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Run lengths as fractions of the task's."""

MAX_LANES_CPU, MAX_LANES = 8, 64
"""Most runs side by side in a program: more are no faster on a CPU."""

MIN_WORKERS = 2
"""Programs that are compiled or run at a time; one for each device if there are more."""

_COMPILE_UNITS = 40_000
"""What compiling counts in the fraction that is done, in steps of one run."""

_Finished = tuple[Program, dict[Pair, list[Record]]]

Learned = tuple[str, LearnedOptimizer, MetaParams]
"""A learned optimizer: its name, itself, its theta."""
Rival = str | Baseline | Control | Learned
"""What is compared with: a baseline or its name, a control, a learned optimizer."""

Progress = Callable[[str, float], None]
"""`(text, fraction done)`, called from the caller's thread."""


def evaluate(
    lopt: LearnedOptimizer,
    theta: MetaParams,
    tasks: Sequence[SuiteTask],
    *,
    name: str = "learned",
    suite: str = "",
    baselines: Sequence[Rival] = DEFAULT_BASELINES,
    trials: int = 16,
    seeds: int = 16,
    tuning_seeds: int = 3,
    budgets: Sequence[float] = BUDGETS,
    seed: int = 0,
    lanes: int | None = None,
    progress: Progress | None = None,
) -> Results:
    """Trains every task with a learned optimizer and with tuned baselines.

    Args:
      lopt: the learned optimizer.
      theta: its meta-parameters.
      tasks: what is trained, each for its `num_steps` and the smaller budgets.
      name: of the learned optimizer, for people.
      suite: the tasks' name, for people.
      baselines: what it is compared with.
      trials: points of each search, for each baseline, task and budget.
      seeds: reporting seeds; intervals need at least 10 to mean what they say.
      tuning_seeds: seeds of each trial, and as many others of the finals.
      budgets: increasing fractions of a task's run length, the last one 1.
      seed: of everything that is drawn.
      lanes: runs side by side in one program; default: by device.
      progress: told what is done.

    Raises:
      ConfigError: an argument is out of range, or a name unknown or used twice.
    """
    started = time.monotonic()
    found = [baseline(item) if isinstance(item, str) else item for item in baselines]
    names = [item[0] if isinstance(item, tuple) else item.name for item in found]
    _validate([name, *names], tasks, trials, seeds, tuning_seeds, budgets)
    lengths = tuple(_lengths(task.num_steps, budgets) for task in tasks)
    ours = Contender(name=name, kind="learned", lopt=lopt, theta=theta)
    contenders = [ours, *(_contender(item, lengths, progress) for item in found)]
    if lanes is None:
        most = MAX_LANES_CPU if jax.default_backend() == "cpu" else MAX_LANES
        # As few as divide the reporting seeds evenly: no lane is padded then.
        lanes = math.ceil(seeds / math.ceil(seeds / most))
    settings = Settings(
        suite=suite,
        baselines=tuple(names),
        trials=trials,
        seeds=seeds,
        tuning_seeds=tuning_seeds,
        budgets=tuple(budgets),
        seed=seed,
        lanes=lanes,
        device=jax.devices()[0].device_kind,
    )
    work = Work(
        tasks=tuple(tasks),
        contenders=tuple(contenders),
        lengths=lengths,
        settings=settings,
    )
    entries = _run(work, progress)
    return summarize(
        [task.task for task in tasks],
        contenders,
        entries,
        settings,
        time.monotonic() - started,
    )


def _run(work: Work, progress: Progress | None) -> dict[Pair, Entry]:
    """Every pair's entry, computed by workers; progress is told from this thread."""
    groups = work.groups()
    total = sum(_COMPILE_UNITS + sum(map(work.units, group)) for group in groups)
    done = 0

    def on_notice(text: str, units: int) -> None:
        nonlocal done
        done += units
        if progress is not None:
            progress(text, min(done / total, 1.0))

    jobs = [partial(_run_group, work, group) for group in groups]
    return _timed(work, run_jobs(jobs, _workers(), on_notice))


def _workers() -> list[Any]:
    """The devices, some of them twice if there are few."""
    devices = jax.local_devices()
    return devices * math.ceil(MIN_WORKERS / len(devices))


def _run_group(work: Work, group: list[Pair], device: Any, notify: Notify) -> _Finished:
    """Compiles one program and runs every pair that it serves."""
    first = work.tasks[group[0][0]].task
    contender = work.contenders[group[0][1]]
    notify(f"compiling {contender.name} for {first.name}", 0)
    program = compile_program(
        first, contender.lopt, contender.any_theta, work.settings.lanes, device
    )
    notify(f"compiled {contender.name} for {first.name}", _COMPILE_UNITS)
    tuning_key, report_key = jax.random.split(_key(work.settings.seed))
    records = {}
    for pair in group:
        task, contender = work.tasks[pair[0]].task, work.contenders[pair[1]]

        def on_budget(num_steps: int, pair=pair, task=task, contender=contender):
            text = f"{contender.name} on {task.name}, {num_steps} steps"
            notify(text, work.budget_units(pair, num_steps))

        records[pair] = compete(
            program,
            contender,
            task,
            work.lengths[pair[0]],
            trials=work.settings.trials,
            tuning_keys=jax.random.split(tuning_key, 2 * work.settings.tuning_seeds),
            keys=jax.random.split(report_key, work.settings.seeds),
            on_budget=on_budget,
        )
    return program, records


def _timed(work: Work, finished: list[_Finished]) -> dict[Pair, Entry]:
    """The records with the time of a step, measured one program at a time."""
    entries = {}
    for program, records in finished:
        task_index, contender_index = next(iter(records))
        milliseconds = milliseconds_per_step(
            program,
            work.contenders[contender_index].any_theta,
            work.tasks[task_index].task,
            work.lengths[task_index][0],
            time.perf_counter,
        )
        for pair, pair_records in records.items():
            entries[pair] = Entry(pair_records, milliseconds)
    return entries


def _contender(
    item: Baseline | Control | Learned,
    lengths: Sequence[Sequence[int]],
    progress: Progress | None,
) -> Contender:
    if isinstance(item, tuple):
        name, lopt, theta = item
        return Contender(name=name, kind="baseline", lopt=lopt, theta=theta)
    if isinstance(item, Control):
        every_length = sorted({length for each in lengths for length in each})

        def notify(text: str, units: int) -> None:
            del units  # little, next to what follows
            if progress is not None:
                progress(text, 0.0)

        item = item.make(every_length, _workers(), notify)
    kind = "control" if item.control else "baseline"
    return Contender(name=item.name, kind=kind, lopt=item.lopt, space=item.space)


def _validate(
    names: Sequence[str],
    tasks: Sequence[SuiteTask],
    trials: int,
    seeds: int,
    tuning_seeds: int,
    budgets: Sequence[float],
) -> None:
    if not tasks:
        raise ConfigError("there must be at least one task to evaluate on")
    for entry in tasks:
        lacking = [s for s in ("valid", "test") if s not in entry.task.splits]
        if lacking:
            raise ConfigError(
                f"task `{entry.task.name}` must have a split `{lacking[0]}` to be "
                f"evaluated on, got {', '.join(entry.task.splits)}"
            )
    if len(names) < 2:
        raise ConfigError(
            "at least one baseline must be compared with",
            hint="add one: `--baseline adamw`",
        )
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"names must differ, got `{name}` twice")
    for option, value, least in (
        ("trials", trials, 1),
        ("seeds", seeds, 2),
        ("tuning_seeds", tuning_seeds, 1),
    ):
        if value < least:
            raise ConfigError(f"`{option}` must be at least {least}, got {value}")
    increasing = list(budgets) == sorted(set(budgets))
    if not budgets or not increasing or budgets[0] <= 0 or budgets[-1] != 1:
        raise ConfigError(
            f"`budgets` must be increasing fractions that end with 1, got {budgets}"
        )


def _lengths(num_steps: int, budgets: Sequence[float]) -> tuple[int, ...]:
    """Run lengths; equal ones, of very short runs, once."""
    return tuple(sorted({max(round(num_steps * b), 1) for b in budgets}))


def _key(seed: int) -> jax.Array:
    # Whatever the default implementation is: rbg's bits depend on the place in a batch.
    return jax.random.key(seed, impl="threefry2x32")
