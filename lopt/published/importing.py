"""Published weights to a checkpoint of ours: `import_file`.

What a file does not carry (decays, step multipliers) is a constant of the optimizer: it
is stated by the user or taken from the factory, and named in the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lopt import __version__, options
from lopt.checkpoint import Checkpoint
from lopt.config import BrokenRule
from lopt.errors import ConfigError, unknown_name
from lopt.files.fileformat import Header
from lopt.optimizers import OPTIMIZERS
from lopt.published import formats
from lopt.published.layouts import ARCHITECTURES
from lopt.published.matching import Found, find


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A published optimizer that has become one of ours.

    Attributes:
      checkpoint: what `checkpoint.save_file` writes.
      format: of the file.
      source: the project whose names the file uses.
      constants: what the file does not carry, by name; theta's own as `theta.NAME`.
    """

    checkpoint: Checkpoint
    format: str
    source: str
    constants: dict[str, Any]


def import_file(
    path: Path, architecture: str, settings: Mapping[str, Any] | None = None
) -> Imported:
    """Reads published weights as one of our architectures.

    Args:
      path: a file in one of the formats of `formats`.
      architecture: a name in `ARCHITECTURES`.
      settings: options of the architecture; under `theta`, tensors that the file lacks.

    Raises:
      ConfigError: an unknown architecture, or a setting that it does not take.
      CheckpointError: the file is unreadable, or its tensors are not the architecture's.
    """
    if architecture not in ARCHITECTURES:
        raise unknown_name("architecture to import", architecture, ARCHITECTURES)
    given = dict(settings or {})
    stated = _stated(given.pop("theta", {}))
    contents = formats.read(path)
    found = find(contents.tensors, architecture, path, stated)
    all_options, free = _options(found, architecture, given)
    lopt = options.build(OPTIMIZERS[architecture], all_options, where=architecture)
    added = {f"theta.{name}": _short(x) for name, x in found.added.items()}
    constants = added | free
    card = {
        "imported_from": path.name,
        "format": contents.format,
        "layout": found.layout.source,
        "sha256": contents.sha256,
        "not_in_the_file": constants,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"lopt": __version__},
    }
    checkpoint = Checkpoint(
        path=path,
        lopt=lopt,
        theta=found.theta(lopt),
        header=Header(optimizer=architecture, options=all_options, card=card),
    )
    return Imported(
        checkpoint=checkpoint,
        format=contents.format,
        source=found.layout.source,
        constants=constants,
    )


def _short(array: np.ndarray) -> Any:
    """A float32 array as plain numbers, with the digits that it has."""
    return array.astype(str).astype(float).tolist()


def _stated(theta: Any) -> dict[str, np.ndarray]:
    """Tensors that the user states.

    Raises:
      BrokenRule: they are not numbers.
    """
    if not isinstance(theta, Mapping):
        raise BrokenRule("theta", "be a table", theta, hint="write `theta.NAME=[…]`")
    stated = {}
    for name, value in theta.items():
        try:
            array = np.asarray(value)
        except ValueError:  # lists of different lengths
            array = np.asarray(None)
        is_number = array.dtype.kind in "if"
        with np.errstate(over="ignore"):
            array = array.astype(np.float32) if is_number else array
        if not is_number or not np.isfinite(array).all():
            raise BrokenRule(f"theta.{name}", "be a list of finite numbers", value)
        stated[name] = array
    return stated


def _options(
    found: Found, architecture: str, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every option of the architecture, and those of them that the file says nothing of.

    Raises:
      ConfigError: an option that the file carries, or that has another type.
    """
    factory = OPTIMIZERS[architecture]
    typed = options.typed_options(factory, given, where=architecture)
    inferred = _inferred(found.tensors)
    for name, value in typed.items():
        if name in ARCHITECTURES[architecture].starting:
            raise ConfigError(
                f"`{name}` only says where a meta-training starts: `{found.path}` "
                "carries what became of it",
                hint=f"drop `--set {name}`",
            )
        plain = list(value) if isinstance(value, tuple) else value
        if name in inferred and plain != inferred[name]:
            raise ConfigError(
                f"`{name}` is {inferred[name]} in `{found.path}`, got {plain}",
                hint=f"drop `--set {name}`",
            )
    everything = options.resolved(factory, {**typed, **inferred})
    known = {*inferred, *ARCHITECTURES[architecture].starting}
    return everything, {k: v for k, v in everything.items() if k not in known}


def _inferred(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The options that shapes of tensors tell: sizes of layers, and numbers of them."""
    found = {}
    biases = [x for name, x in tensors.items() if name.startswith("network/b")]
    if biases:
        found["hidden_sizes"] = [b.shape[-1] for b in biases[:-1]]
        if biases[0].ndim > 1:
            found["num_networks"] = len(biases[0])
    if "lstm/hidden" in tensors:
        found["hidden_size"] = tensors["lstm/hidden"].size
    for option in ("from_mlp", "from_lstm"):
        if option in tensors:
            found[option] = tensors[option].size
    if "to_mlp/b" in tensors:
        found["lstm_to_mlp"] = tensors["to_mlp/b"].size
    return found or {"per_role": False}
