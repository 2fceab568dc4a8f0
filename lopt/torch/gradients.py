"""What a step is given: gradients and a loss, checked before anything changes."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lopt.torch import shards

Named = Sequence[tuple[str, Tensor]]


def check(named: Named, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raises where a gradient is not dense, or a parameter has another shape.

    Args:
      named: parameters with gradients.
      shapes: that they had when the optimizer was made.
    """
    for (name, p), shape in zip(named, shapes, strict=True):
        grad: Any = p.grad
        if tuple(p.shape) != shape:
            shapes_now = f"{list(p.shape)}, not {list(shape)} as at first"
            raise ValueError(
                f"`{name}` has shape {shapes_now}: make a new optimizer for it"
            )
        if grad.layout != torch.strided:
            raise TypeError(f"the gradient of `{name}` must be dense, got {grad.layout}")
        if not grad.is_floating_point():
            raise TypeError(f"the gradient of `{name}` must be real, got {grad.dtype}")


def loss_tensor(
    loss: Tensor | float | None, device: torch.device, *, needed: bool
) -> Tensor | None:
    """The loss as a float32 scalar, None where it was not given and is not needed."""
    if loss is None:
        if needed:
            raise TypeError(
                "this optimizer reads the loss: call `step(loss=loss)`, or "
                "`step(closure)` with a closure that returns it; where a trainer calls "
                "it: `trainer.training_step = optimizer.reading(trainer.training_step)`"
            )
        return None
    value = torch.as_tensor(loss).detach()
    if value.numel() != 1 or value.is_complex():
        raise ValueError(f"the loss must be one number, got shape {list(value.shape)}")
    return shards.whole(value).reshape(()).to(device, torch.float32)


def agree(named: Named, loss: Tensor | None, *, check_finite: bool) -> Tensor | None:
    """The mean loss of all processes; all raise where one has a bad gradient.

    Raises:
      FloatingPointError: a gradient is not finite.
    """
    grads: list[Any] = [p.grad for _, p in named]
    largest: list[Tensor] = []
    if check_finite:
        local = [shards.local(g) for g in grads]
        kept = [g if g.numel() else g.new_zeros(1) for g in local]
        largest = [n.float() for n in torch._foreach_norm(kept, torch.inf)]
    bad = ~torch.isfinite(torch.stack(largest)) if largest else None
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    num_bad = 0.0 if bad is None else bad.sum().float()
    if several:
        message = torch.stack(
            [
                torch.as_tensor(x, dtype=torch.float32, device=grads[0].device)
                for x in (num_bad, 0.0 if loss is None else loss)
            ]
        )
        dist.all_reduce(message)
        num_bad = message[0]
        loss = None if loss is None else message[1] / dist.get_world_size()
    if bad is not None and float(num_bad) > 0:
        found = bad.nonzero().flatten().tolist()
        which = f"of `{named[found[0]][0]}`" if found else "in another process"
        raise FloatingPointError(
            f"the gradient {which} is not finite: nothing was changed; leave this step "
            "out, or scale losses with `torch.amp.GradScaler`, which does so"
        )
    return loss
