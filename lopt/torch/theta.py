"""A learned optimizer's weights in torch: read from a file, checked, without jax."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lopt import factories
from lopt.config import locate
from lopt.errors import CheckpointError, unknown_name
from lopt.files import fileformat, hub
from lopt.files.fileformat import Header
from lopt.torch.rule import Theta


def read(path_or_name: str | Path, known: Mapping[str, Any]) -> tuple[Theta, Header]:
    """Weights and header of an exported file, a folder for the Hub, or a released name.

    Args:
      path_or_name: as `lopt.load` takes it, but for runs and snapshots.
      known: update rules that torch has, by name.

    Raises:
      CheckpointError: nothing there, damaged, or an optimizer that torch does not have.
    """
    path = locate(path_or_name)
    tensors, header = hub.read(path)
    if factories.python_file(header.optimizer) is not None:
        raise CheckpointError(
            f"`{path}` is of an optimizer that the Python file `{header.optimizer}` "
            "defines for jax: torch cannot run it",
            hint="use it with `lopt.load(…, trust=True)` and optax",
        )
    if header.optimizer not in known:
        kind = f"optimizer in torch, named by `{path}`,"
        raise unknown_name(kind, header.optimizer, known, error=CheckpointError)
    return _nested(tensors), header


Shapes = Mapping[str, Any]
"""Shapes of theta's tensors, nested like it."""


def check_theta(theta: Theta, shapes: Shapes) -> None:
    """Raises `CheckpointError` unless theta is of tensors of these names and shapes."""
    flat, expected = fileformat.flatten(theta), fileformat.flatten(shapes)
    for name in sorted({*flat, *expected}):
        if name not in flat:
            raise _foreign(f"it lacks `{name}`")
        if name not in expected:
            raise _foreign(f"`{name}` is unknown")
        if tuple(flat[name].shape) != expected[name] or flat[name].dtype != torch.float32:
            kind = str(flat[name].dtype).removeprefix("torch.")
            have = f"{kind}{list(flat[name].shape)}"
            want = f"float32{list(expected[name])}"
            raise _foreign(f"`{name}` must be {want}, got {have}")


def network_shapes(*sizes: int) -> Shapes:
    """Of a network with these layer sizes: weights [outputs, inputs] and biases."""
    return {
        name: shape
        for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes))
        for name, shape in {f"w{i}": (n_out, n_in), f"b{i}": (n_out,)}.items()
    }


def linear_shapes(n_in: int, n_out: int) -> Shapes:
    """Of x w + b."""
    return {"w": (n_in, n_out), "b": (n_out,)}


def lstm_shapes(n_in: int, hidden_size: int) -> Shapes:
    """Of an LSTM: its four gates and its starting state."""
    start = {"hidden": (1, hidden_size), "cell": (1, hidden_size)}
    return {"linear": linear_shapes(n_in + hidden_size, 4 * hidden_size), **start}


def moved(theta: Theta, device: torch.device) -> Theta:
    """Theta on a device."""
    return {
        key: moved(x, device) if isinstance(x, dict) else x.to(device)
        for key, x in theta.items()
    }


def _nested(tensors: Mapping[str, np.ndarray]) -> Theta:
    theta: Theta = {}
    for name, array in tensors.items():
        *path, last = name.split("/")
        place = theta
        for part in path:
            place = place.setdefault(part, {})
        place[last] = torch.from_numpy(np.array(array))
    return theta


def _foreign(what: str) -> CheckpointError:
    return CheckpointError(
        f"the weights do not fit the optimizer's options: {what}",
        hint="they were made by another version of that optimizer: export them anew",
    )
