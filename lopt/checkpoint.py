"""Learned optimizers from files and runs: `load`, and what is behind it.

A learned optimizer with its weights comes from an exported file, by path or by the name
of a released one, from a run's folder (its last snapshot), or from the folder of one
snapshot. All four are a `Checkpoint`, and `load` makes any of them an optax optimizer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from lopt import factories, options
from lopt.base import LearnedOptimizer, MetaParams, Specs
from lopt.config import RunConfig, TaskConfig, released
from lopt.errors import CheckpointError, ConfigError
from lopt.families import FAMILIES
from lopt.files import fileformat, rundir, snapshots
from lopt.files.fileformat import Header
from lopt.guard import guarded
from lopt.optimizers import OPTIMIZERS


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A learned optimizer with weights.

    Attributes:
      path: where it came from.
      lopt: the optimizer.
      theta: its weights.
      header: its name, its constants, and how the weights were made.
    """

    path: Path
    lopt: LearnedOptimizer
    theta: MetaParams
    header: Header


def load(
    path_or_name: str | Path,
    *,
    num_steps: int | None = None,
    specs: Specs | None = None,
    trust: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """A learned optimizer, ready for an optax training loop.

        optimizer = lopt.load("layerwise", num_steps=1000)
        opt_state = optimizer.init(params)
        updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
        params = optax.apply_updates(params, updates)

    Args:
      path_or_name: an exported file, a run, a snapshot, or a released name; a path wins.
      num_steps: length of the training run; most learned optimizers need it.
      specs: a `ParamSpec` for each parameter (`lopt.param_specs`), which says what
        shapes cannot; None: inferred from shapes.
      trust: whether an optimizer that a Python file defines may be loaded.

    Raises:
      CheckpointError: nothing there, or it is damaged, foreign or too new.
      TypeError: the optimizer needs `num_steps`.
      ValueError: `num_steps` is not positive.
    """
    if isinstance(num_steps, int) and num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1, got {num_steps}")
    found = read(path_or_name, trust=trust)
    return guarded(found.lopt.opt_fn(found.theta, specs=specs, num_steps=num_steps))


def load_theta(path_or_name: str | Path, *, trust: bool = False) -> MetaParams:
    """The weights alone."""
    return read(path_or_name, trust=trust).theta


def read(path_or_name: str | Path, *, trust: bool = False) -> Checkpoint:
    """A learned optimizer from a file, a run, a snapshot or a released name.

    Raises:
      CheckpointError: nothing there, or it is damaged, foreign or too new, or its
        tensors are not those of its optimizer.
    """
    path = locate(path_or_name)
    tensors, header = _read_folder(path) if path.is_dir() else fileformat.read(path)
    lopt = build_optimizer(header, path, trust=trust)
    theta = theta_from_tensors(tensors, lopt, path)
    return Checkpoint(path=path, lopt=lopt, theta=theta, header=header)


def save_file(checkpoint: Checkpoint, path: Path, *, overwrite: bool = False) -> None:
    """Writes the exported file; the errors of `fileformat.write`."""
    theta = jax.device_get(checkpoint.theta)
    tensors = fileformat.flatten(theta)
    fileformat.write(path, tensors, checkpoint.header, overwrite=overwrite)


def locate(path_or_name: str | Path) -> Path:
    """The path that was given or, where nothing is there, a released file's."""
    path = Path(path_or_name)
    is_name = len(path.parts) == 1 and not path.suffix
    return released("checkpoints", path.name) if is_name and not path.exists() else path


def build_optimizer(header: Header, path: Path, *, trust: bool) -> LearnedOptimizer:
    """The optimizer that a header names, with its constants.

    Raises:
      CheckpointError: this lopt does not have it, or not with these options.
    """
    try:
        factory = find_optimizer(header.optimizer, trust=trust)
        return options.build(factory, header.options, where="optimizer")
    except ConfigError as error:
        raise CheckpointError(f"`{path}`: {error.message}", hint=error.hint) from error


def find_optimizer(name: str, *, trust: bool) -> Callable[..., LearnedOptimizer]:
    """The factory of a learned optimizer; the errors of `factories.find`."""
    return factories.find(
        "optimizer", name, OPTIMIZERS, group="lopt.optimizers", trust=trust
    )


def theta_from_tensors(
    tensors: Mapping[str, np.ndarray], lopt: LearnedOptimizer, path: Path
) -> MetaParams:
    """The optimizer's theta from named tensors.

    Raises:
      CheckpointError: a tensor is missing, unknown, or of another shape or dtype.
    """
    template = jax.eval_shape(lopt.init, jax.random.key(0))
    expected = fileformat.flatten(template)
    for name in sorted({*expected, *tensors}):
        have, want = tensors.get(name), expected.get(name)
        if have is None and want is not None and 0 in want.shape:
            continue  # snapshots do not hold empty arrays
        if have is None or want is None:
            rule = "lacks the tensor" if have is None else "has an unknown tensor"
            raise _foreign(path, f"{rule} `{name}`")
        if have.shape != want.shape or have.dtype != want.dtype:
            found, needed = _show(have), _show(want)
            raise _foreign(path, f"tensor `{name}` must be {needed}, got {found}")
    return _nested(template, tensors)


def _nested(template: Mapping[str, Any], tensors, prefix: str = "") -> MetaParams:
    theta = {}
    for key, want in template.items():
        name = f"{prefix}{key}"
        if isinstance(want, Mapping):
            theta[key] = _nested(want, tensors, f"{name}/")
        else:
            empty = np.zeros(want.shape, want.dtype) if 0 in want.shape else None
            theta[key] = jax.device_put(tensors.get(name, empty))
    return theta


def _show(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _foreign(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"`{path}` does not fit the optimizer that it names: {what}",
        hint="it was made by another version of that optimizer: export it anew",
    )


def _read_folder(folder: Path) -> tuple[dict[str, np.ndarray], Header]:
    """Tensors and header of a run, or of one of its snapshots."""
    parent = folder.absolute().parent
    is_snapshot = parent.name == rundir.CHECKPOINTS and folder.name.isdecimal()
    run = parent.parent if is_snapshot else folder
    config = rundir.read_config(run)
    saved = snapshots.steps(run / rundir.CHECKPOINTS)
    if not saved:
        raise CheckpointError(
            f"run `{folder}` has no complete checkpoint yet",
            hint="train further: `lopt meta-train … --resume`",
        )
    step = int(folder.name) if is_snapshot else saved[-1]
    tensors = snapshots.read_theta(run / rundir.CHECKPOINTS / str(step))
    return tensors, _header(run, config, step)


def _header(run: Path, config: RunConfig, step: int) -> Header:
    """The header of an exported file of a run's theta after `step` outer steps.

    A Python file's options stay as given: reading its signature would run it.
    """
    name, given = config.optimizer.name, config.optimizer.options
    known = name in OPTIMIZERS
    return Header(
        optimizer=name,
        options=options.resolved(OPTIMIZERS[name], given) if known else given,
        mup_base=_mup_base(config),
        card=_card(run, config, step),
    )


def _card(run: Path, config: RunConfig, step: int) -> dict[str, Any]:
    """How the weights were made."""
    record = rundir.read_json(run / rundir.RECORD)
    metrics = [line for line in rundir.read_metrics(run) if line["step"] <= step]
    results = run / rundir.RESULTS
    # An evaluation in the run's folder is of its last weights.
    is_last = step == snapshots.steps(run / rundir.CHECKPOINTS)[-1]
    is_evaluated = is_last and results.is_file()
    compiling = sum(s.get("compile_seconds", 0.0) for s in record.get("sessions", []))
    return {
        "suite": config.suite,
        "tasks": [_label(task) for task in config.tasks],
        "outer_steps": step,
        "seed": config.seed,
        "versions": record.get("versions", {}),
        "git_commit": record.get("git_commit"),
        "started_from": record.get("started_from"),
        "cost": {
            "seconds": round(sum(line["seconds"] for line in metrics), 1),
            "compile_seconds": round(compiling, 1),
            "inner_steps": sum(line["inner_steps"] for line in metrics),
        },
        "date": datetime.now(UTC).date().isoformat(),
        "evaluation": _evaluation(results) if is_evaluated else None,
    }


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
