"""Tensors of which every process has a part (`DTensor`, as of FSDP2), and plain ones.

What is done element by element is done to each process's part; what is a statistic of the
whole tensor is added up over processes first. What is plain passes through untouched. No
other module knows of DTensor.
"""

import math
from typing import Any, NamedTuple

from torch import Size, Tensor


class Layout(NamedTuple):
    """How a DTensor is spread."""

    mesh: Any
    placements: tuple[Any, ...]
    shape: Size  # of the whole tensor


def layout_of(x: Tensor) -> Layout | None:
    """How a tensor is spread; None of a plain one."""
    # Not by type: its module is slow to import, and absent from some builds of torch.
    mesh, placements = getattr(x, "device_mesh", None), getattr(x, "placements", ())
    return None if mesh is None else Layout(mesh, tuple(placements), x.shape)


def local(x: Tensor) -> Tensor:
    """This process's part; changes of it are changes of `x`."""
    return getattr(x, "to_local", lambda: x)()


def whole(x: Tensor) -> Tensor:
    """All of it, a plain tensor, the same on every process."""
    return getattr(x, "full_tensor", lambda: x)()


def means(own: Tensor, stack: Tensor) -> Tensor:
    """Means over each tensor of a stack [G, *s]: [G], or [G, k] of `own` [G, k, *s].

    Args:
      own: numbers for each element of this process's part.
      stack: the whole, possibly spread.
    """
    axes, num = range(1 - stack.dim(), 0), max(math.prod(stack.shape[1:]), 1)
    sums = own.sum(tuple(axes)) if axes else own
    return added_up(sums, layout_of(stack)) / num


def added_up(sums: Tensor, layout: Layout | None) -> Tensor:
    """Sums over this process's part of a tensor to sums over all of it."""
    if layout is None:
        return sums
    from torch.distributed.tensor import DTensor, Partial, Replicate

    parts = [Partial() if p.is_shard() else Replicate() for p in layout.placements]
    return DTensor.from_local(sums, layout.mesh, parts, run_check=False).full_tensor()


def cut(x: Tensor, layout: Layout | None) -> Tensor:
    """What of `x` [G, k, *s], plain and whole, meets this process's part of a stack.

    Axes of `x` may have size 1, which meets everything.
    """
    if layout is None:
        return x
    from torch.distributed.tensor import DTensor, Replicate, Shard

    there = [
        Shard(p.dim + 1)
        if p.is_shard() and x.shape[p.dim + 1] == layout.shape[p.dim]
        else Replicate()
        for p in layout.placements
    ]
    everywhere = [Replicate() for _ in there]
    copies = DTensor.from_local(x.contiguous(), layout.mesh, everywhere, run_check=False)
    return copies.redistribute(placements=there).to_local()


def joined(x: Tensor, layout: Layout | None) -> Tensor:
    """The tensor of which `x` is this process's part."""
    if layout is None:
        return x
    from torch.distributed.tensor import DTensor

    mesh, placements, shape = layout
    stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    return DTensor.from_local(
        x, mesh, placements, run_check=False, shape=shape, stride=stride
    )
