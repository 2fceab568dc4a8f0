"""Named tensors of a file to our theta: unwrapped, renamed, turned and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lopt.base import LearnedOptimizer, MetaParams
from lopt.checkpoint import theta_from_tensors
from lopt.errors import CheckpointError, ConfigError, unknown_name
from lopt.files import fileformat
from lopt.published.layouts import (
    ARCHITECTURES,
    GROUPED_WEIGHT,
    SCALAR_WEIGHT,
    WRAPPERS,
    Layout,
)

CUT = "the file was cut short or changed: import the one that was published"


@dataclass(frozen=True, kw_only=True)
class Found:
    """The tensors of a file, by our names and laid out as ours.

    Attributes:
      path: of the file.
      layout: how the file names them.
      names: our names, and the file's.
      tensors: by our names, float32.
      added: what the file does not carry.
    """

    path: Path
    layout: Layout
    names: dict[str, str]
    tensors: dict[str, np.ndarray]
    added: dict[str, np.ndarray]

    def theta(self, lopt: LearnedOptimizer) -> MetaParams:
        """Theta of this optimizer.

        Raises:
          CheckpointError: a tensor has another shape than the optimizer's; the message
            has it as it is in the file.
          ConfigError: a tensor that the user stated has.
        """
        template = fileformat.flatten(jax.eval_shape(lopt.init, jax.random.key(0)))
        tensors = self.tensors | self.added
        for name, want in template.items():
            if name in tensors and tensors[name].shape != want.shape:
                raise self._misshapen(name, list(want.shape))
        return theta_from_tensors(tensors, lopt, self.path)

    def _misshapen(self, name: str, want: list[int]) -> CheckpointError | ConfigError:
        if name in self.added:
            shape = list(self.added[name].shape)
            return ConfigError(f"`theta.{name}` must have shape {want}, got {shape}")
        got = list(self.tensors[name].shape)
        if _is_turned(name, self.layout):
            want, got = ([*x[:-2], *x[-2:][::-1]] for x in (want, got))
        return CheckpointError(
            f"tensor `{self.names[name]}` of `{self.path}` must have shape {want}, got "
            f"{got}",
            hint="sizes follow from the other tensors and from the options: `--set` "
            "states those that the file does not carry",
        )


def find(
    tensors: Mapping[str, Any],
    architecture: str,
    path: Path,
    stated: Mapping[str, np.ndarray] | None = None,
) -> Found:
    """The tensors of an architecture among the named contents of a file.

    Args:
      tensors: arrays, and what else stands beside them, by `/`-joined names.
      architecture: a name in `ARCHITECTURES`.
      path: of the file, for messages.
      stated: tensors that the file lacks, by our names.

    Raises:
      CheckpointError: a tensor is missing, unknown, not of floating point numbers or
        not finite, or all are another architecture's.
      ConfigError: a tensor is stated that the file has, or that there is none of.
    """
    stated = stated or {}
    tensors = _joined(_unwrapped(tensors), path)
    candidates = [(x, x.names_in(tensors)) for x in ARCHITECTURES[architecture].layouts]
    layout, names = max(
        candidates, key=lambda candidate: len(tensors.keys() & candidate[1].values())
    )
    tensors = {name: x for name, x in tensors.items() if name not in layout.unused}
    for name in stated:
        if name not in {*names, *layout.absent}:
            raise unknown_name("tensor of theta", name, {*names, *layout.absent})
        if names.get(name) in tensors:
            raise ConfigError(
                f"`theta.{name}` is not to be stated: `{path}` has `{names[name]}`",
                hint=f"drop `--set theta.{name}`",
            )
    carried = {ours: theirs for ours, theirs in names.items() if ours not in stated}
    if set(carried.values()) != tensors.keys():
        _complain(tensors, carried, architecture, path)
    absent = {k: np.asarray(v, np.float32) for k, v in layout.absent.items()}
    ours = {name: _float32(tensors[x], x, path) for name, x in carried.items()}
    turned = {
        k: np.swapaxes(x, -2, -1) if _is_turned(k, layout) else x for k, x in ours.items()
    }
    return Found(
        path=path, layout=layout, names=names, tensors=turned, added={**absent, **stated}
    )


def _is_turned(name: str, layout: Layout) -> bool:
    """Whether a file has a tensor in the other order of axes; biases have no order."""
    return layout.inputs_first and name.startswith("network/w")


def _unwrapped(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Theta alone, out of the checkpoint around it."""
    for prefix, beside in WRAPPERS.items():
        inside = {k: v for k, v in tensors.items() if k.startswith(prefix)}
        others = tensors.keys() - inside
        if inside and (beside is None or others == beside):
            return {k.removeprefix(prefix): v for k, v in inside.items()}
    return dict(tensors)


def _joined(tensors: dict[str, Any], path: Path) -> dict[str, Any]:
    """Weights that are stored one by one, joined to tensors.

    Raises:
      CheckpointError: one of them is missing.
    """
    single = {name: SCALAR_WEIGHT.fullmatch(name) for name in tensors}
    places = {
        name: (match[1], tuple(int(i) for i in match.groups()[1:] if i is not None))
        for name, match in single.items()
        if match
    }
    joined = {name: value for name, value in tensors.items() if name not in places}
    joined = _grouped(joined, path)
    for tensor in dict.fromkeys(tensor for tensor, _ in places.values()):
        values = {
            index: _float32(tensors[name], name, path).item()
            for name, (owner, index) in places.items()
            if owner == tensor
        }
        shape = tuple(1 + max(axis) for axis in zip(*values, strict=True))
        joined[tensor] = np.empty(shape, np.float32)
        for index in np.ndindex(shape):
            if index not in values:
                name = "_".join(map(str, (tensor, *index)))
                raise CheckpointError(f"`{path}` lacks the tensor `{name}`", hint=CUT)
            joined[tensor][index] = values[index]
    return joined


def _grouped(tensors: dict[str, Any], path: Path) -> dict[str, Any]:
    """Weights that are stored by groups of inputs, joined to [..., inputs, outputs].

    Raises:
      CheckpointError: one of them is missing, or has another number of outputs.
    """
    groups: dict[str, dict[int, str]] = {}
    for name in tensors:
        if match := GROUPED_WEIGHT.fullmatch(name):
            groups.setdefault(match[1], {})[int(match[2])] = name
    joined = dict(tensors)
    for tensor, names in groups.items():
        for i in range(1 + max(names)):
            if i not in names:
                raise CheckpointError(
                    f"`{path}` lacks the tensor `{tensor}__{i}`", hint=CUT
                )
        parts = [_float32(joined.pop(names[i]), names[i], path) for i in sorted(names)]
        shapes = [list(part.shape) for part in parts]
        if len({(*shape[:-2], *shape[-1:], len(shape)) for shape in shapes}) > 1:
            rule = "must agree but in their number of inputs, the last axis but one"
            raise CheckpointError(f"`{tensor}__*` of `{path}` {rule}, got {shapes}")
        joined[tensor] = np.concatenate(parts, axis=-2)
    return joined


def _float32(value: Any, name: str, path: Path) -> np.ndarray:
    """A tensor of a file as float32.

    Raises:
      CheckpointError: it is not of floating point numbers, or not finite.
    """
    array = np.asarray(value) if isinstance(value, np.ndarray | float) else None
    if array is None or array.dtype.kind != "f":
        got = type(value).__name__ if array is None else str(array.dtype)
        raise CheckpointError(
            f"tensor `{name}` of `{path}` must be of floating point numbers, got {got}",
            hint="the file is of something else, or was changed",
        )
    with np.errstate(over="ignore"):  # becomes infinite, and is told so
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        raise CheckpointError(
            f"tensor `{name}` of `{path}` must be finite, got {bad} of {array.size} "
            "entries that are not",
            hint="its meta-training had diverged: take an earlier checkpoint",
        )
    return array


def _complain(
    tensors: Mapping[str, Any], names: Mapping[str, str], architecture: str, path: Path
) -> None:
    """Says what keeps a file's tensors from being those of an architecture.

    Raises:
      CheckpointError: always.
    """
    others = [
        f"`{name}`"
        for name, other in ARCHITECTURES.items()
        if any({*x.names_in(tensors).values()} == tensors.keys() for x in other.layouts)
    ]
    if others:
        raise CheckpointError(
            f"`{path}` has weights of {' or '.join(others)}, not of `{architecture}`",
            hint="import it with " + " or ".join(f"`--as {x[1:-1]}`" for x in others),
        )
    held = ", ".join(f"`{name}`" for name in sorted(tensors)[:3]) or "nothing"
    missing = {ours: x for ours, x in names.items() if x not in tensors}
    if len(missing) == len(names):
        raise CheckpointError(
            f"`{path}` has none of the tensors of `{architecture}`",
            hint=f"it has {len(tensors)}: {held}{', …' if len(tensors) > 3 else ''}",
        )
    for ours, theirs in missing.items():
        hint = f"if you know it, state it: `--set theta.{ours}=[…]`"
        raise CheckpointError(
            f"`{path}` lacks the tensor `{theirs}`",
            hint=CUT if ours.startswith("network/") else hint,
        )
    extra = min(tensors.keys() - names.values())
    raise CheckpointError(
        f"`{path}` has `{extra}`, which is no tensor of `{architecture}`",
        hint=f"known to lopt: {', '.join(f'`{x}`' for x in names.values())}",
    )
