"""`meta_train`: a run from its first decision to its last checkpoint."""

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import jax

from lopt import checkpoint
from lopt.base import LearnedOptimizer, MetaParams
from lopt.config import RunConfig, Trust, check_trust, load_suite
from lopt.errors import ConfigError
from lopt.factories import file_hash
from lopt.files import fileformat, rundir, snapshots
from lopt.groups import data_hashes
from lopt.references import recorded
from lopt.run.build import build
from lopt.run.feeding import feeding
from lopt.run.loop import Log, Progress, Silent, loop
from lopt.run.plan import Plan, plan
from lopt.run.selection import Score, Selector, build_selector, chosen, selected
from lopt.run.signals import Interrupted, StopRequest, handling
from lopt.trainer import Metrics, Trainer, TrainState

Step = Callable[[TrainState, int], tuple[TrainState, Metrics]]


@dataclass(frozen=True, kw_only=True)
class Run:
    """A meta-training run that has come to its end.

    Attributes:
      folder: where it lies; None: nowhere.
      config: resolved.
      theta: what `lopt.load` takes from the folder: the selected meta-parameters;
        without a selection the average or, without one, those of the last outer step.
      metrics: one dict per outer step, as in metrics.jsonl.
      selection: one dict per selection, as in selection.jsonl.
    """

    folder: Path | None
    config: RunConfig
    theta: MetaParams
    metrics: tuple[dict[str, Any], ...]
    selection: tuple[dict[str, Any], ...] = ()


def meta_train(
    suite: str | Path | RunConfig,
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    start_from: str | Path | None = None,
    trust: Trust = False,
    progress: Progress | None = None,
) -> Run:
    """Meta-trains a learned optimizer.

        run = lopt.meta_train("digits", out="runs/digits", overrides=["outer_steps=9"])

    Args:
      suite: a released suite's name, a TOML or Python file, or a configuration, with
        which `seed` and `overrides` must not be given.
      out: the run's folder; None: nothing is written.
      seed: of every random draw; None: the suite's.
      overrides: `dotted.key=value`, as after `--set`.
      resume: continue the run in `out`; without it an existing run is refused.
      start_from: an exported file, a released name or a run whose theta is the start;
        options of the optimizer that the suite does not give are taken from there.
      trust: whether Python files that a suite names may be run.
      progress: who is told.

    Raises:
      ConfigError: a mistake in the suite, an option or the folder; nothing was changed.
      CheckpointError: a damaged checkpoint, or a disk that refuses.
      Interrupted: by SIGINT or SIGTERM; the run is saved. Only where `out` is given.
    """
    progress = progress or Silent()
    if isinstance(suite, RunConfig):
        if seed is not None or overrides:
            raise TypeError("`seed` and `overrides` go with a suite, not with a config")
        config = suite
    else:
        extra = [] if seed is None else [f"seed={seed}"]
        config = load_suite(suite, [*overrides, *extra])
        trust = check_trust(suite, config, trust=trust)
    if resume and out is None:
        raise ConfigError("`resume` needs the folder of a run", hint="give `out`")
    folder = None if out is None else Path(out)
    origin = None if start_from is None else str(start_from)
    todo = plan(config, folder, resume=resume, start_from=origin, trust=trust)
    for note in todo.notes:
        progress.note(note)
    if folder is not None and todo.step >= todo.config.outer_steps:
        progress.note(f"`{folder}` is finished: all {todo.step} steps are done")
        return _finished(folder, todo.config, trust)
    trainer = build(todo.config, trust=trust, notify=progress.note)
    selector = build_selector(todo.config, trainer, trust=trust)
    if todo.start is not None:
        _check_start(todo.start, trainer.lopt)
    work = _Work(trainer, selector, todo, progress)
    return _in_memory(work) if folder is None else _in_folder(work, folder, origin)


def _finished(folder: Path, config: RunConfig, trust: Trust) -> Run:
    theta = checkpoint.load_theta(folder, trust=trust)
    return _ended(folder, config, theta)


def _ended(folder: Path, config: RunConfig, theta: MetaParams) -> Run:
    return Run(
        folder=folder,
        config=config,
        theta=theta,
        metrics=tuple(rundir.read_metrics(folder)),
        selection=tuple(rundir.read_selection(folder)),
    )


@dataclass(frozen=True)
class _Work:
    """What a process does, and whom it tells."""

    trainer: Trainer
    selector: Selector | None
    todo: Plan
    progress: Progress

    @property
    def config(self) -> RunConfig:
        return self.todo.config

    def initial(self) -> TrainState:
        """The state at step 0, with the start's theta if there is one."""
        theta = None if self.todo.start is None else self.todo.start.theta
        state = self.trainer.init(jax.random.key(self.config.seed), theta)
        if self.selector is None:
            return state
        return self.trainer.place(self.selector.start(state))

    def restored(self, folder: Path) -> TrainState | None:
        """The state that was saved, bit for bit; None where nothing was."""
        if not self.todo.step:
            return None
        checkpoints = folder / rundir.CHECKPOINTS
        state = snapshots.restore(checkpoints, self.todo.step, self.shapes())
        return self.trainer.place(state)

    def begin(
        self, folder: Path | None = None
    ) -> tuple[TrainState, Step, Score | None, dict[str, Any]]:
        """The state, one outer step, what scores theta, and seconds for run.json."""
        done = self.progress.compiled
        total = len(self.trainer.groups) + (self.selector is not None)
        done(0, total)
        datas_after = feeding(self.trainer, self.config.stream_every, self.todo.step)
        restored = None if folder is None else self.restored(folder)
        shapes = self.trainer.placed(self.shapes())
        with ThreadPoolExecutor(1) as pool:
            # A state is made by a program, too, which compiles while others are lowered.
            making = pool.submit(lambda: restored or self.initial())
            compiled = self.trainer.compile(shapes, lambda i, _: done(i, total))
            state = making.result()

        def step(state: TrainState, number: int) -> tuple[TrainState, Metrics]:
            return compiled(state, datas_after(number), self.trainer.factors(number))

        if self.selector is None:
            return state, step, None, {}
        started = time.perf_counter()
        score = self.selector.compile(state)
        done(total, total)
        seconds = {"selection_compile_seconds": _seconds_since(started)}
        return state, step, score, seconds

    def shapes(self) -> TrainState:
        """Those of the state."""
        shapes = self.trainer.shapes()
        if self.selector is None:
            return shapes
        return jax.eval_shape(self.selector.start, shapes)

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due, the last one aside."""
        return step % self.config.checkpoint_every == 0

    def select(
        self, score: Score | None, write: Callable[[dict[str, Any]], None]
    ) -> Callable[[int, TrainState], TrainState]:
        """What the loop calls at every checkpoint."""

        def select(step: int, state: TrainState) -> TrainState:
            is_last = step == self.config.outer_steps
            # Not where a signal asked for a checkpoint: it must change no bits.
            if self.selector is None or score is None or not (self.due(step) or is_last):
                return state
            if self.selector.is_due(state, is_last=is_last):
                state, line = self.selector.select(state, score)
                write(line)
                self.progress.selected(line)
            elif is_last and not int(selected(state).step):
                self.progress.note(
                    "nothing was selected: a selection takes more than "
                    f"`selection.share` = {self.selector.share:g} of training's inner "
                    "steps"
                )
            return state

        return select


def _in_memory(work: _Work) -> Run:
    """A run that leaves nothing behind; a signal does what it always does."""
    metrics, selection = [], []
    state, step_fn, score, _ = work.begin()
    steps = work.config.outer_steps
    log = Log(work.trainer, steps, work.progress, metrics.append)
    select = work.select(score, selection.append)
    state = loop(step_fn, state, steps, log, work.due, select, lambda *_: None)
    return Run(
        folder=None,
        config=work.config,
        theta=chosen(state),
        metrics=tuple(metrics),
        selection=tuple(selection),
    )


def _in_folder(work: _Work, folder: Path, origin: str | None) -> Run:
    """A run with metrics and checkpoints, which signals end in good order."""
    config, todo, started = work.config, work.todo, time.perf_counter()
    rundir.make_folder(folder)  # a place that refuses is found before compiling
    with handling(_stop_at_once):
        state, step_fn, score, seconds = work.begin(folder)
    session = _session(work) | {"compile_seconds": _seconds_since(started), **seconds}
    if todo.step:
        for what in rundir.add_session(folder, session):
            what = what.replace("_", " ")
            work.progress.note(f"other {what} than before: bits may differ from here on")
    else:
        rundir.create(folder, config, _record(config, origin, session))
    rundir.truncate(folder, todo.step)
    write = partial(rundir.append_metrics, folder)
    log = Log(work.trainer, config.outer_steps, work.progress, write)
    select = work.select(score, partial(rundir.append_selection, folder))
    stop = StopRequest()

    def due(step: int) -> bool:
        return work.due(step) or stop.signum is not None

    def save(step: int, state: TrainState) -> None:
        checkpoints = folder / rundir.CHECKPOINTS
        snapshots.save(checkpoints, step, state, keep=config.keep_checkpoints)
        if stop.signum is not None and step < config.outer_steps:
            raise Interrupted(
                stop.signum,
                f"after step {step} of {config.outer_steps}, saved in `{folder}`",
                hint="the same command with `--resume` continues it",
            )

    with handling(stop):
        state = loop(step_fn, state, config.outer_steps, log, due, select, save)
    return _ended(folder, config, chosen(state))


def _stop_at_once(signum: int) -> None:
    raise Interrupted(
        signum, "before the first step", hint="the same command starts again"
    )


def _seconds_since(moment: float) -> float:
    return round(time.perf_counter() - moment, 1)


def _session(work: _Work) -> dict[str, Any]:
    """What run.json says about one process."""
    hashes = [data_hashes(group) for group in work.trainer.groups]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "from_step": work.todo.step,
        "devices": len(jax.devices()),
        "versions": rundir.versions(),
        "optimizer_hash": file_hash(work.config.optimizer.name),
        "data": {name: found for group in hashes for name, found in group.items()},
        **recorded(work.trainer.groups),
    }


def _record(
    config: RunConfig, origin: str | None, session: dict[str, Any]
) -> dict[str, Any]:
    """The content of run.json."""
    return {
        "command": sys.argv,
        "seed": config.seed,
        "started_from": origin,
        "versions": session["versions"],
        "data": session["data"],
        "git_commit": rundir.git_commit(),
        "sessions": [session],
    }


def _check_start(start: checkpoint.Checkpoint, lopt: LearnedOptimizer) -> None:
    """Raises `ConfigError` unless theta has the shapes of the run's optimizer."""
    template = jax.eval_shape(lopt.init, jax.random.key(0))
    wanted = {n: x.shape for n, x in fileformat.flatten(template).items()}
    shapes = {n: x.shape for n, x in fileformat.flatten(start.theta).items()}
    for name in sorted(wanted | shapes):
        if wanted.get(name) != shapes.get(name):
            raise ConfigError(
                f"`{start.path}` does not fit this run's optimizer: `{name}` has shape "
                f"{shapes.get(name)}, not {wanted.get(name)}",
                hint="leave out the suite's options of `optimizer`: the file's are taken",
            )
