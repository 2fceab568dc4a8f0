"""State dicts: what they are of, and whether they fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

VERSION = 1
IDENTITY = "lopt"
"""The key of a state dict that says what it is of."""


def numbered(
    state_dict: Mapping[str, Any], optimizer: str, groups: Sequence[Mapping[str, Any]]
) -> dict[int, Any]:
    """What was saved of parameters, by their numbers.

    Tools of `torch.distributed.checkpoint` name parameters, and keep nothing but "state"
    and "param_groups": what these are of is then seen by what is in them.

    Args:
      state_dict: of an optimizer.
      optimizer: name of the architecture that it must be of.
      groups: that it must have.

    Raises:
      ValueError: it is of another optimizer, or of other numbers of parameters.
    """
    _check_identity(state_dict, optimizer)
    sizes = [len(group["params"]) for group in groups]
    saved = [len(group["params"]) for group in state_dict["param_groups"]]
    if sizes != saved:
        rule = f"groups of {saved} parameters, the optimizer of {sizes}"
        raise ValueError(f"this state dict has {rule}")
    keys = [key for group in state_dict["param_groups"] for key in group["params"]]
    number = {key: i for i, key in enumerate(keys)}
    for key in state_dict["state"]:
        if key not in number:
            raise ValueError(f"this state dict has a state of `{key}`, which is unknown")
    return {number[key]: kept for key, kept in state_dict["state"].items()}


def _check_identity(state_dict: Mapping[str, Any], optimizer: str) -> None:
    identity = state_dict.get(IDENTITY)
    if identity is None and state_dict.get("state"):
        return
    if not isinstance(identity, Mapping) or "state" not in state_dict:
        raise ValueError("this state dict is not of a learned optimizer")
    if identity.get("version") != VERSION:
        have = identity.get("version")
        raise ValueError(f"this state dict has version {have}, this lopt reads {VERSION}")
    if identity.get("optimizer") != optimizer:
        have = identity.get("optimizer")
        raise ValueError(
            f"this state dict is of `{have}`, the optimizer is `{optimizer}`"
        )


def compare(name: str, saved: Any, template: Mapping[str, Tensor]) -> None:
    """Raises `ValueError` unless what was saved of a parameter has this layout."""
    have = saved if isinstance(saved, Mapping) else {}
    for key in sorted({*have, *template}):
        if key not in have or key not in template:
            rule = "lacks" if key not in have else "has an unknown"
            raise ValueError(f"this state dict {rule} `{key}` of `{name}`")
        if tuple(have[key].shape) != tuple(template[key].shape):
            shapes = f"{list(have[key].shape)}, not {list(template[key].shape)}"
            raise ValueError(f"in this state dict `{key}` of `{name}` has shape {shapes}")


def copied(saved: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Copies on a device, but for the step, which is read by the processor."""
    return {
        key: x.detach().clone() if key == "step" else x.detach().to(device, copy=True)
        for key, x in saved.items()
    }
