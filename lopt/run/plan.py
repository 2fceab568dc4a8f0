"""Where a run starts: anew, from given weights, or where an earlier process stopped.

Nothing is written here: a mistake leaves everything as it was.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lopt import checkpoint
from lopt.checkpoint import Checkpoint
from lopt.config import ComponentConfig, RunConfig, Trust
from lopt.errors import ConfigError
from lopt.files import rundir, snapshots


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a process is to do.

    Attributes:
      config: resolved; options that were not given are those of the start.
      step: outer steps that are done; the snapshot to continue from, 0: none.
      start: whose theta to start from; None: new, or that of the snapshot.
      notes: what the user should know.
    """

    config: RunConfig
    step: int = 0
    start: Checkpoint | None = None
    notes: tuple[str, ...] = ()


def plan(
    config: RunConfig,
    folder: Path | None,
    *,
    resume: bool,
    start_from: str | None,
    trust: Trust,
) -> Plan:
    """What to do, given what lies in the folder.

    Raises:
      ConfigError: the folder is in use, or is another run's.
      CheckpointError: `start_from` cannot be read or has another optimizer.
    """
    if folder is not None and _in_use(folder):
        if not resume:
            raise ConfigError(
                f"`{folder}` exists already",
                hint="continue that run with `--resume`, or choose another folder",
            )
        return _continued(config, folder, start_from, trust=trust)
    note = f"no run in `{folder}` yet: starting at step 0"
    notes = (note,) if resume else ()
    return _new(config, start_from, trust=trust, notes=notes)


def _new(
    config: RunConfig, start_from: str | None, *, trust: Trust, notes: tuple[str, ...]
) -> Plan:
    """The plan for a run at step 0."""
    if start_from is None:
        return Plan(config=config, notes=notes)
    start = checkpoint.read(start_from, trust=trust)
    if start.header.optimizer != config.optimizer.name:
        raise ConfigError(
            f"`{start_from}` has weights of `{start.header.optimizer}`, this run trains "
            f"`{config.optimizer.name}`",
            hint=f"pass `--optimizer {start.header.optimizer}`",
        )
    config = _with_options(config, start.header.options)
    return Plan(config=config, start=start, notes=notes)


def _in_use(folder: Path) -> bool:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(
            f"`{folder}` is a file, and a run needs a folder",
            hint="choose another `--out`",
        )
    if not folder.is_dir():
        return False
    # Hidden files are what a kill left of an atomic write, or the desktop's; the record
    # is written just before the configuration.
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    return not names <= {rundir.RECORD}


def _continued(
    config: RunConfig, folder: Path, start_from: str | None, *, trust: Trust
) -> Plan:
    """The plan for a folder that has a run."""
    if not rundir.is_run(folder):
        raise ConfigError(
            f"`{folder}` holds something else than a run",
            hint="choose another folder",
        )
    stored = rundir.read_config(folder)
    if start_from is not None:
        config = _with_options(config, stored.optimizer.options)
    before = rundir.read_json(folder / rundir.RECORD).get("started_from")
    if before != start_from:
        raise _another(folder, "--from", before, start_from)
    difference = rundir.differing_key(stored, config)
    if difference is not None:
        raise _another(folder, *difference)
    saved = snapshots.steps(folder / rundir.CHECKPOINTS)
    if not saved:
        note = f"no complete checkpoint in `{folder}` yet: starting at step 0"
        return _new(config, start_from, trust=trust, notes=(note,))
    return Plan(config=config, step=saved[-1])


def _another(folder: Path, key: str, before: Any, now: Any) -> ConfigError:
    return ConfigError(
        f"`{folder}` is a run with another `{key}`: {before!r}, now {now!r}",
        hint="resume with the same command, or choose another folder",
    )


def _with_options(config: RunConfig, known: dict[str, Any]) -> RunConfig:
    """The configuration, the optimizer's options completed by known ones."""
    plain = {key: value for key, value in known.items() if value is not None}
    given = config.optimizer.options
    component = ComponentConfig(name=config.optimizer.name, options=plain | given)
    return replace(config, optimizer=component)
