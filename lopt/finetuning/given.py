"""Parameters from files, and whether they fit a task.

A safetensors file has tensors by name, such as `layer_0/w`; an orbax checkpoint is the
folder of a tree of arrays, whose leaves are named by their paths. A model's state, such
as batch statistics, is beside the parameters, under `model_state/`. A pickle is never
read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import safetensors
import safetensors.numpy

from lopt.base import Task
from lopt.errors import ConfigError
from lopt.finetuning.start import MODEL_STATE, Place, covers, few, names

Tensors = dict[str, np.ndarray]


def read_tensors(path: Path) -> Tensors:
    """The tensors of a safetensors file or of an orbax checkpoint, by name.

    Raises:
      ConfigError: nothing is there, or it is neither, or damaged.
    """
    if not path.exists():
        hint = "a path is relative to the suite, or absolute"
        raise ConfigError(f"no file `{path}`", hint=hint)
    try:
        return _orbax(path) if path.is_dir() else safetensors.numpy.load_file(path)
    # orbax and tensorstore have several kinds of error for what they cannot read.
    except (safetensors.SafetensorError, OSError, LookupError, TypeError, ValueError,
            AttributeError) as error:  # fmt: skip
        kind = "an orbax checkpoint" if path.is_dir() else "a safetensors file"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"`{path}` is not {kind}, or damaged: {reason}",
            hint="`safetensors.flax.save_file({'layer/w': …}, path)` writes one",
        ) from error


def _orbax(folder: Path) -> Tensors:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree: Any = reader.metadata(folder.absolute()).item_metadata.tree
        as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        args = jax.tree.map(lambda _: as_numpy, tree)
        restored = reader.restore(
            folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=args)
        )
    return {name: np.asarray(leaf) for name, leaf in names(restored).items()}


def fitting(
    what: str,
    tensors: Mapping[str, np.ndarray],
    task: Task,
    chosen: Mapping[str, Place],
    fresh: Sequence[str],
) -> Tensors:
    """Those of the tensors that a task starts from: all but the fresh ones.

    Args:
      what: they are, for messages.
      tensors: by name.
      task: that is to be started.
      chosen: what becomes of each of its parameters.
      fresh: the patterns of those that are not needed; they may be there or not.

    Raises:
      ConfigError: a tensor is missing, unknown, of another shape or type, or not finite.
    """
    params, model_state = jax.eval_shape(task.init, jax.random.key(0), task.data)
    wanted = {n: x for n, x in names(params).items() if chosen[n] != "fresh"}
    wanted |= {MODEL_STATE + name: x for name, x in names(model_state).items()}
    given = {
        name: x
        for name, x in tensors.items()
        if name in wanted or not any(covers(pattern, name) for pattern in fresh)
    }
    both = sorted(wanted.keys() & given.keys())
    others = [n for n in both if _kind(given[n]) != _kind(wanted[n])]
    for rule, found in (
        ("lacks", sorted(wanted.keys() - given.keys())),
        ("has the unknown", sorted(given.keys() - wanted.keys())),
        ("has another shape or type of", [*others]),
        ("has numbers that are not finite in", [n for n in both if _broken(given[n])]),
    ):
        if found:
            told = few(found)
            if found == others:
                name = found[0]
                told += f" ({_kind(given[name])}, not {_kind(wanted[name])})"
            hint = "tensors that `start.fresh` covers need not fit"
            message = f"{what} does not fit task `{task.name}`: it {rule} {told}"
            raise ConfigError(message, hint=hint)
    return {name: given[name] for name in wanted}


def _kind(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _broken(array: np.ndarray) -> bool:
    is_inexact = jnp.issubdtype(array.dtype, jnp.inexact)
    return bool(is_inexact and not np.isfinite(array.astype(np.float32)).all())
