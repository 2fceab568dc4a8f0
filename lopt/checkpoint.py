"""Learned optimizers from files and runs: `load`, and what is behind it.

A learned optimizer with its weights comes from an exported file, by path or by the name
of a released one, from such a file in a folder for the Hugging Face Hub, from a run's
folder (its selected weights, or its last), or from that of one snapshot. All five are a
`Checkpoint`, and `load` makes any of them an optax optimizer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from lopt import factories, options, weights
from lopt.base import LearnedOptimizer, MetaParams, Specs
from lopt.config import Trust, locate, trusts
from lopt.errors import CheckpointError, ConfigError
from lopt.files import fileformat, hub
from lopt.files.fileformat import Header
from lopt.guard import guarded
from lopt.optimizers import FROZEN, OPTIMIZERS
from lopt.weights import Step


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
    num_steps: ArrayLike | None = None,
    specs: Specs | None = None,
    trust: Trust = False,
) -> optax.GradientTransformationExtraArgs:
    """A learned optimizer, ready for an optax training loop.

        optimizer = lopt.load("layerwise", num_steps=1000)
        opt_state = optimizer.init(params)
        updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
        params = optax.apply_updates(params, updates)

    Args:
      path_or_name: an exported file or folder, a run, a snapshot, or a released name; a
        path wins.
      num_steps: length of the training run; most learned optimizers need it. May be
        traced, as by `optax.inject_hyperparams`.
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
    return guarded(
        partial(found.lopt.opt_fn, found.theta, num_steps=num_steps), specs=specs
    )


def load_theta(path_or_name: str | Path, *, trust: Trust = False) -> MetaParams:
    """The weights alone."""
    return read(path_or_name, trust=trust).theta


def read(
    path_or_name: str | Path, *, step: Step | None = None, trust: Trust = False
) -> Checkpoint:
    """A learned optimizer from a file, a run, a snapshot or a released name.

    Args:
      path_or_name: as in `load`.
      step: of a run: which weights; the number of one that is kept, "best" or "last";
        None: the best where there was a selection, else the last.
      trust: as in `load`.

    Raises:
      CheckpointError: nothing there, or it is damaged, foreign or too new, or its
        tensors are not those of its optimizer.
      ConfigError: a step of something else than a run.
    """
    path = locate(path_or_name)
    if path.is_dir() and not hub.is_folder(path):
        tensors, header = weights.read_folder(path, step)
    elif step is None:
        tensors, header = hub.read(path)
    else:
        raise ConfigError(f"only a run has steps to choose from, got `{path}`")
    header = _with_defaults(_with_python_file(header, path, trust=trust))
    lopt = build_optimizer(header, path, trust=trust)
    theta = theta_from_tensors(tensors, lopt, path)
    return Checkpoint(path=path, lopt=lopt, theta=theta, header=header)


def save_file(checkpoint: Checkpoint, path: Path, *, overwrite: bool = False) -> None:
    """Writes the exported file; the errors of `fileformat.write`."""
    theta = jax.device_get(checkpoint.theta)
    tensors = fileformat.flatten(theta)
    fileformat.write(path, tensors, checkpoint.header, overwrite=overwrite)


def save_folder(checkpoint: Checkpoint, path: Path) -> None:
    """Writes the folder for the Hugging Face Hub; the errors of `hub.write`."""
    theta = jax.device_get(checkpoint.theta)
    hub.write(path, fileformat.flatten(theta), checkpoint.header)


def build_optimizer(header: Header, path: Path, *, trust: Trust) -> LearnedOptimizer:
    """The optimizer that a header names, with its constants.

    Raises:
      CheckpointError: this lopt does not have it, or not with these options.
    """
    try:
        factory = find_optimizer(header.optimizer, OPTIMIZERS | FROZEN, trust=trust)
        return options.build(factory, header.options, where="optimizer")
    except ConfigError as error:
        raise CheckpointError(f"`{path}`: {error.message}", hint=error.hint) from error


def _with_defaults(header: Header) -> Header:
    """The header with all options: a run has those given, an older file lacks newer ones.

    A Python file's stay as they are: reading its signature would run it.
    """
    if header.optimizer not in OPTIMIZERS:
        return header
    known = OPTIMIZERS[header.optimizer]
    return replace(header, options=options.resolved(known, header.options))


def _with_python_file(header: Header, path: Path, *, trust: Trust) -> Header:
    """The header, where the Python file that it may name is now: beside, or as it says.

    Raises:
      CheckpointError: that file is not trusted, absent, or not what it was.
    """
    named = factories.python_file(header.optimizer)
    if named is None:
        return header
    places = (path.parent / named.name, named)
    found = next((file for file in places if file.is_file()), None)
    if not trusts(trust, found or named):
        raise CheckpointError(
            f"`{path}` would run the Python file `{found or named}`",
            hint="read that file; if you trust it, pass `--trust`, or `trust=True`",
        )
    if found is None:
        raise CheckpointError(
            f"`{path}` needs the Python file `{named}`, which is not there",
            hint=f"put `{named.name}` beside `{path.name}`",
        )
    name = f"{found.absolute()}{header.optimizer.rpartition('.py')[2]}"
    if header.file_hash not in (None, factories.file_hash(name)):
        raise CheckpointError(
            f"`{path}` was made by another `{found}` than is there now",
            hint="bring the file back as it was, or meta-train anew",
        )
    return replace(header, optimizer=name)


def find_optimizer(
    name: str,
    known: Mapping[str, Callable[..., LearnedOptimizer]] = OPTIMIZERS,
    *,
    trust: Trust,
) -> Callable[..., LearnedOptimizer]:
    """The factory of a learned optimizer; the errors of `factories.find`."""
    return factories.find("optimizer", name, known, group="lopt.optimizers", trust=trust)


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
