"""The weights of a run: which of them are its result, and how they were made.

The result is what was selected; where nothing was, the last weights. These, as those of
any snapshot, are the moving average of theta where one is kept, else theta. An
evaluation in a run's folder is of its result.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lopt import options
from lopt.config import RunConfig, TaskConfig
from lopt.errors import CheckpointError, ConfigError
from lopt.families import FAMILIES
from lopt.files import rundir, snapshots
from lopt.files.fileformat import Header

Step = int | Literal["best", "last"]


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """Which weights of a run.

    Attributes:
      snapshot: the step of the snapshot that holds them.
      step: outer steps that led to them.
      weights: whether they are theta or its average.
      score: of the selection that found them; None: they were not selected.
    """

    snapshot: int
    step: int
    weights: Literal["raw", "average"]
    score: float | None = None

    @property
    def part(self) -> str:
        """Where in the snapshot they are."""
        if self.score is not None:
            return "selected/theta"
        return "average" if self.weights == "average" else "theta"


def read_folder(folder: Path, step: Step | None) -> tuple[dict[str, np.ndarray], Header]:
    """Tensors and header of a run, or of one of its snapshots.

    Raises:
      CheckpointError: no run, no such step, or the snapshot is damaged.
      ConfigError: a step of a snapshot.
    """
    run = run_of(folder)
    is_snapshot = run != folder
    if is_snapshot and step is not None:
        raise ConfigError(f"`{folder}` is one checkpoint: it has no steps to choose from")
    config = rundir.read_config(run)
    saved = snapshots.steps(run / rundir.CHECKPOINTS)
    if not saved:
        raise CheckpointError(
            f"run `{folder}` has no complete checkpoint yet",
            hint="train further: `lopt meta-train … --resume`",
        )
    if is_snapshot:
        step = int(folder.name)
    choice = _choose(run, config, saved, step)
    snapshot = run / rundir.CHECKPOINTS / str(choice.snapshot)
    is_result = choice == _choose(run, config, saved, None)
    header = _header(run, config, choice, is_result=is_result)
    return snapshots.read_part(snapshot, choice.part), header


def run_of(folder: Path) -> Path:
    """The run that a folder is, or is a snapshot of."""
    parent = folder.absolute().parent
    is_snapshot = parent.name == rundir.CHECKPOINTS and folder.name.isdecimal()
    return parent.parent if is_snapshot else folder


def _choose(run: Path, config: RunConfig, saved: list[int], step: Step | None) -> _Choice:
    kept = "average" if config.outer_optimizer.average else "raw"
    if step in (None, "best"):
        best = _best(run, config, saved[-1])
        if best is not None:
            return best
        if step == "best":
            yet = " yet" if config.selection.suite else ""
            raise CheckpointError(
                f"run `{run}` has no selected weights{yet}",
                hint="`--step last` takes the last; a run with `selection.suite` selects",
            )
    if step in (None, "last"):
        step = saved[-1]
    if step not in saved:
        steps = ", ".join(map(str, saved))
        raise CheckpointError(
            f"run `{run}` has no checkpoint of step {step}",
            hint=f"it keeps {steps}; `keep_checkpoints` says how many a run keeps",
        )
    assert isinstance(step, int)
    return _Choice(snapshot=step, step=step, weights=kept)


def _best(run: Path, config: RunConfig, last: int) -> _Choice | None:
    """What was selected up to the last snapshot; None where nothing was."""
    if not config.selection.suite:
        return None
    snapshot = run / rundir.CHECKPOINTS / str(last)
    selected = snapshots.read_part(snapshot, "selected")
    if not int(selected["step"]):
        return None
    return _Choice(
        snapshot=last,
        step=int(selected["step"]),
        weights="average" if selected["is_average"] else "raw",
        score=float(selected["score"]),
    )


def _header(run: Path, config: RunConfig, choice: _Choice, *, is_result: bool) -> Header:
    """The header of an exported file of these weights, its options as they were given."""
    record = rundir.read_json(run / rundir.RECORD)
    return Header(
        optimizer=config.optimizer.name,
        options=config.optimizer.options,
        mup_base=_mup_base(config),
        card=_card(run, config, choice, record, is_result=is_result),
        file_hash=record.get("sessions", [{}])[-1].get("optimizer_hash"),
    )


def _card(
    run: Path,
    config: RunConfig,
    choice: _Choice,
    record: dict[str, Any],
    *,
    is_result: bool,
) -> dict[str, Any]:
    """How the weights were made."""
    results = run / rundir.RESULTS
    return {
        "suite": config.suite,
        "tasks": [_label(task) for task in config.tasks],
        "outer_steps": choice.step,
        "weights": choice.weights,
        "selection": _selection(run, config, choice),
        "seed": config.seed,
        "versions": record.get("versions", {}),
        "data": record.get("data", {}),
        "git_commit": record.get("git_commit"),
        "started_from": record.get("started_from"),
        "cost": _cost(run, record, choice.snapshot),
        "date": datetime.now(UTC).date().isoformat(),
        "evaluation": _evaluation(results) if is_result and results.is_file() else None,
    }


def _selection(run: Path, config: RunConfig, choice: _Choice) -> dict[str, Any] | None:
    """How the weights were selected, and among which; None where they were not."""
    if choice.score is None:
        return None
    lines = _until(rundir.read_selection(run), choice.snapshot)
    return {
        "suite": config.selection.suite,
        "tasks": [_label(task) for task in config.selection.tasks],
        "seeds": config.selection.seeds,
        "score": choice.score,
        "candidates": {f"step {line['step']}": line["scores"] for line in lines},
    }


def _cost(run: Path, record: dict[str, Any], step: int) -> dict[str, Any]:
    """What the run had taken at a step: it had to be trained further than the best."""
    metrics = _until(rundir.read_metrics(run), step)
    selection = _until(rundir.read_selection(run), step)
    compiling = sum(s.get("compile_seconds", 0.0) for s in record.get("sessions", []))
    return {
        "seconds": round(sum(line["seconds"] for line in metrics), 1),
        "compile_seconds": round(compiling, 1),
        "inner_steps": sum(line["inner_steps"] for line in metrics),
        "selection_seconds": round(sum(line["seconds"] for line in selection), 1),
        "selection_inner_steps": sum(line["inner_steps"] for line in selection),
    }


def _until(lines: list[dict[str, Any]], step: int) -> list[dict[str, Any]]:
    return [line for line in lines if line["step"] <= step]


def _evaluation(results: Path) -> dict[str, Any]:
    """What a card says of an evaluation: speed-ups, and how they were measured.

    Raises:
      CheckpointError: the file is not an evaluation.
    """
    content = rundir.read_json(results)
    try:
        return {
            "speed_up": content["speed_up"],
            "speed_up_over": content["speed_up_over"],
            "tasks": {task["name"]: task["speed_up"] for task in content["tasks"]},
            "settings": content["settings"],
        }
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"`{results}` is not an evaluation: {error} is missing",
            hint="evaluate anew, or move that file away",
        ) from error


_MUP_KEYS = ("form", "base_width")


def _mup_base(config: RunConfig) -> dict[str, Any] | None:
    """Form and base width of the tasks that have one, by label."""
    bases = {}
    for task in config.tasks:
        if task.family in FAMILIES:
            all_options = options.resolved(FAMILIES[task.family], task.options)
            found = {k: all_options[k] for k in _MUP_KEYS if k in all_options}
            bases |= {_label(task): found} if found else {}
    return bases or None


def _label(task: TaskConfig) -> str:
    given = " ".join(f"{key}={value}" for key, value in task.options.items())
    return task.name or f"{task.family or task.file} {given}".strip()
