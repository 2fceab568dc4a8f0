"""`meta_train`: a run from its first decision to its last checkpoint."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import jax

from lopt import checkpoint
from lopt.base import LearnedOptimizer, MetaParams
from lopt.config import RunConfig, check_trust, load_suite
from lopt.errors import ConfigError
from lopt.files import fileformat, rundir, snapshots
from lopt.run.build import build
from lopt.run.loop import Log, Progress, Silent, loop
from lopt.run.plan import Plan, plan
from lopt.run.signals import Interrupted, StopRequest, handling
from lopt.trainer import Metrics, Trainer, TrainState


@dataclass(frozen=True, kw_only=True)
class Run:
    """A meta-training run that has come to its end.

    Attributes:
      folder: where it lies; None: nowhere.
      config: resolved.
      theta: the meta-parameters after the last outer step.
      metrics: one dict per outer step, as in metrics.jsonl.
    """

    folder: Path | None
    config: RunConfig
    theta: MetaParams
    metrics: tuple[dict[str, Any], ...]


def meta_train(
    suite: str | Path | RunConfig,
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    start_from: str | Path | None = None,
    trust: bool = False,
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
    trainer = build(todo.config, trust=trust)
    if todo.start is not None:
        _check_start(todo.start, trainer.lopt)
    if folder is None:
        return _train_in_memory(trainer, todo, progress)
    return _train_in_folder(trainer, todo, folder, origin, progress)


def _finished(folder: Path, config: RunConfig, trust: bool) -> Run:
    theta = checkpoint.load_theta(folder, trust=trust)
    metrics = tuple(rundir.read_metrics(folder))
    return Run(folder=folder, config=config, theta=theta, metrics=metrics)


def _train_in_memory(trainer: Trainer, todo: Plan, progress: Progress) -> Run:
    """A run that leaves nothing behind; a signal does what it always does."""
    config, metrics = todo.config, []
    state = _initial(trainer, todo)
    step_fn = _compiled(trainer, state, progress)
    log = Log(trainer, config.outer_steps, progress, metrics.append)
    state = loop(
        step_fn, state, config.outer_steps, log, lambda step: False, lambda *_: None
    )
    return Run(folder=None, config=config, theta=state.theta, metrics=tuple(metrics))


def _train_in_folder(
    trainer: Trainer, todo: Plan, folder: Path, origin: str | None, progress: Progress
) -> Run:
    """A run with metrics and checkpoints, which signals end in good order."""
    config, started = todo.config, time.perf_counter()
    rundir.make_folder(folder)  # a place that refuses is found before compiling
    with handling(_stop_at_once):
        state = _restored(trainer, folder, todo) or _initial(trainer, todo)
        step_fn = _compiled(trainer, state, progress)
    session = _session(todo, compile_seconds=time.perf_counter() - started)
    if todo.step:
        for what in rundir.add_session(folder, session):
            progress.note(f"other {what} than before: bits may differ from here on")
    else:
        rundir.create(folder, config, _record(config, origin, session))
    rundir.truncate_metrics(folder, todo.step)
    write = partial(rundir.append_metrics, folder)
    log = Log(trainer, config.outer_steps, progress, write)
    stop = StopRequest()

    def due(step: int) -> bool:
        return step % config.checkpoint_every == 0 or stop.signum is not None

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
        state = loop(step_fn, state, config.outer_steps, log, due, save)
    metrics = tuple(rundir.read_metrics(folder))
    return Run(folder=folder, config=config, theta=state.theta, metrics=metrics)


def _stop_at_once(signum: int) -> None:
    raise Interrupted(
        signum, "before the first step", hint="the same command starts again"
    )


def _session(todo: Plan, *, compile_seconds: float) -> dict[str, Any]:
    """What run.json says about one process."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "from_step": todo.step,
        "compile_seconds": round(compile_seconds, 1),
        "devices": len(jax.devices()),
        "versions": rundir.versions(),
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
        "git_commit": rundir.git_commit(),
        "sessions": [session],
    }


def _initial(trainer: Trainer, todo: Plan) -> TrainState:
    """The state at step 0, with the start's theta if there is one."""
    theta = None if todo.start is None else todo.start.theta
    return trainer.init(jax.random.key(todo.config.seed), theta)


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


def _restored(trainer: Trainer, folder: Path, todo: Plan) -> TrainState | None:
    """The state that was saved, bit for bit; None where nothing was."""
    if not todo.step:
        return None
    template = jax.eval_shape(trainer.init, jax.random.key(0))
    state = snapshots.restore(folder / rundir.CHECKPOINTS, todo.step, template)
    return trainer.place(state)


def _compiled(
    trainer: Trainer, state: TrainState, progress: Progress
) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
    progress.compiled(0, len(trainer.groups))
    return trainer.compile(state, progress.compiled)
