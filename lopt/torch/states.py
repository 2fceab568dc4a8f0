"""State dicts: what they are of, and whether they fit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

VERSION = 1
IDENTITY = "lopt"
"""The key of a state dict that says what it is of."""


def check(
    state_dict: Mapping[str, Any], optimizer: str, groups: Sequence[Mapping[str, Any]]
) -> None:
    """Raises `ValueError` unless it is of this optimizer and so many parameters."""
    identity = state_dict.get(IDENTITY)
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
    sizes = [len(group["params"]) for group in groups]
    saved = [len(group["params"]) for group in state_dict["param_groups"]]
    if sizes != saved:
        rule = f"groups of {saved} parameters, the optimizer of {sizes}"
        raise ValueError(f"this state dict has {rule}")


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
