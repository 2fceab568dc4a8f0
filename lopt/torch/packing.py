"""Tensors of one shape, stacked, and tensors that are spread over several processes.

As lopt/packing.py has it for jax: what is done to a tensor is done to a stack [G, *shape]
of small ones, or to one large one as a stack of it alone, without a copy. Numbers for
each tensor are vectors [L], in *stack order*: all of the first stack, then the next.

Of a DTensor every process has its shard. `Stacks` are of shards; sums over a tensor are
added up over its mesh, all tensors of one layout in one message.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from lopt.specs import ParamSpec
from lopt.torch import shards
from lopt.torch.shards import Layout, layout_of

Stacks = list[Tensor]
"""One tensor [G, *shape] for each distinct kind of tensor."""

STACK_BELOW, LARGEST_STACK = 2**16, 2**20
"""Tensors with at least so many elements are not copied into a common stack, nor more
than so many in all: what is kept of them is copied, too."""

SMALLEST = torch.finfo(torch.float32).tiny
"""What a mean square counts for at least, as in lopt/numerics.py."""


@dataclass(frozen=True, eq=False)
class Packing:
    """Where each tensor of a list lies in the stacks.

    Attributes:
      groups: for each stack, the positions of its tensors in the list.
      specs: the tensors' specs in stack order.
      group_specs: for each stack the spec of its first tensor; those of the others have
        another place in the network at most.
      layouts: for each stack, how its tensors are spread.
      sizes: elements of each tensor, at least 1, [L], in stack order.
    """

    groups: tuple[tuple[int, ...], ...]
    specs: tuple[ParamSpec, ...]
    group_specs: tuple[ParamSpec, ...]
    layouts: tuple[Layout | None, ...]
    sizes: Tensor

    def pack(self, tensors: Sequence[Tensor]) -> Stacks:
        """The tensors, or the shards that are here, as stacks in their dtype."""
        return [shards.local(self.stack(i, tensors)) for i in range(len(self.groups))]

    def stack(self, i: int, tensors: Sequence[Any]) -> Tensor:
        """One of the stacks, spread over processes as its tensors are."""
        own = [tensors[j] for j in self.groups[i]]
        return own[0][None] if len(own) == 1 else torch.stack(own)

    def store(self, i: int, stack: Tensor, tensors: Sequence[Any]) -> None:
        """Copies a stack, of shards, into the tensors, unless it is made of them."""
        targets = [shards.local(tensors[j]) for j in self.groups[i]]
        if targets[0].data_ptr() != stack.data_ptr():
            torch._foreach_copy_(targets, list(stack))

    def unpack(self, stacks: Stacks, like: Sequence[Tensor]) -> list[Tensor]:
        """The tensors of the stacks as a list, laid out as `like`."""
        out: list[Any] = [None] * len(like)
        for group, stack in zip(self.groups, stacks, strict=True):
            for row, i in enumerate(group):
                out[i] = shards.joined(stack[row], layout_of(like[i]))
        return out

    def order(self, values: Sequence[Tensor]) -> Tensor:
        """A tensor for each parameter to one, [L, …] in stack order."""
        return torch.stack([values[i] for group in self.groups for i in group])

    def disorder(self, values: Tensor) -> list[Tensor]:
        """The inverse of `order`."""
        order = [i for group in self.groups for i in group]
        return [values[i] for i in sorted(range(len(order)), key=order.__getitem__)]

    def total(self, sums: Sequence[Tensor]) -> Tensor:
        """Of sums [G, k] of every stack those over whole tensors, [L, k]."""
        parts = list(sums)
        where = [layout and layout[:2] for layout in self.layouts]
        for mesh in dict.fromkeys(where):
            of_it = [i for i, other in enumerate(where) if other == mesh]
            found = torch.cat([parts[i] for i in of_it])
            sums = shards.added_up(found, self.layouts[of_it[0]])
            split = sums.split([len(parts[i]) for i in of_it])
            for i, part in zip(of_it, split, strict=True):
                parts[i] = part
        return torch.cat(parts)

    def rows(self, i: int) -> slice:
        """Where the tensors of a stack are in stack order."""
        start = sum(len(group) for group in self.groups[:i])
        return slice(start, start + len(self.groups[i]))

    def spread(self, i: int, values: Tensor) -> Tensor:
        """[L] -> [G, 1, …, 1] for a stack, ready to multiply; [] for a stack of one."""
        part = values[self.rows(i)]
        rank = len(self.group_specs[i].shape)
        return part[0] if len(part) == 1 else part.view(-1, *(1,) * rank)

    def rms(self, i: int, stack: Tensor) -> Tensor:
        """Root mean square of each tensor of a stack, shaped as by `spread`."""
        squares = shards.added_up(norms(stack).square(), self.layouts[i])
        sizes = self.sizes[self.rows(i)]
        roots = torch.sqrt((squares / sizes).clamp_min(SMALLEST))
        rank = len(self.group_specs[i].shape)
        return roots[0] if len(roots) == 1 else roots.view(-1, *(1,) * rank)


def packing(specs: tuple[ParamSpec, ...], params: Sequence[Tensor]) -> Packing:
    """The packing of parameters with these specs."""
    layouts = tuple(layout_of(p) for p in params)
    return _packing(specs, layouts, params[0].device)


@lru_cache(maxsize=64)
def _packing(
    specs: tuple[ParamSpec, ...], layouts: tuple[Layout | None, ...], device: torch.device
) -> Packing:
    kinds: dict[Any, list[int]] = {}
    for i, (spec, layout) in enumerate(zip(specs, layouts, strict=True)):
        known = replace(spec, depth=None, num_layers=None)
        kinds.setdefault((known, layout), []).append(i)
    groups: list[tuple[int, ...]] = []
    for (spec, layout), kin in kinds.items():
        size = max(math.prod(spec.shape), 1)
        is_alone = size >= STACK_BELOW or (layout is not None and spec.is_matrix)
        num = 1 if is_alone else LARGEST_STACK // size
        groups += [tuple(kin[j : j + num]) for j in range(0, len(kin), num)]
    ordered = tuple(specs[i] for group in groups for i in group)
    sizes = [float(max(math.prod(spec.shape), 1)) for spec in ordered]
    return Packing(
        tuple(groups),
        ordered,
        tuple(specs[group[0]] for group in groups),
        tuple(layouts[group[0]] for group in groups),
        torch.tensor(sizes, device=device),
    )


def norms(stack: Tensor) -> Tensor:
    """Euclidean norm of each tensor of a stack, [G]."""
    return torch.linalg.vector_norm(stack.reshape(len(stack), -1), dim=1)


def products(x: Tensor, y: Tensor) -> Tensor:
    """Σ x y of each tensor of two stacks, [G]."""
    return torch.linalg.vecdot(x.reshape(len(x), -1), y.reshape(len(y), -1))


def as_matrices(stack: Tensor, spec: ParamSpec) -> Tensor:
    """[G, *shape] -> [G, fan_in, fan_out], for a spec that is a matrix."""
    order = (0, *(a + 1 for a in spec.in_axes), *(a + 1 for a in spec.out_axes))
    return stack.permute(order).reshape(len(stack), spec.fan_in, spec.fan_out)


def from_matrices(matrices: Tensor, spec: ParamSpec) -> Tensor:
    """The inverse of `as_matrices`."""
    axes = (*spec.in_axes, *spec.out_axes)
    shape = (len(matrices), *(spec.shape[a] for a in axes))
    inverse = sorted(range(len(axes)), key=axes.__getitem__)
    return matrices.reshape(shape).permute(0, *(i + 1 for i in inverse))
