"""Tensors of one shape, stacked, so that many small tensors cost as much as a few.

A network has few distinct shapes. Everything an optimizer does to a tensor it can do to
a stack of tensors, [G, *shape], and per-tensor numbers become vectors over all tensors,
[L]. The compiled program then grows with the number of shapes, not of layers, and
orthogonalization runs as one batched product. Large tensors, for which a copy would
cost more than it saves, form stacks of one.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lopt.base import Array, Params, ParamSpec, Specs
from lopt.numerics import root
from lopt.sharding import alike

Stacks = tuple[Array, ...]
"""One float32 array [G, *shape] for each distinct kind of tensor."""

STACK_BELOW = 2**16
"""Tensors with at least so many elements are not copied into a common stack."""


@dataclass(frozen=True)
class Packing:
    """Where each tensor of a tree lies in the stacks; static.

    Attributes:
      treedef: structure of the parameters.
      groups: for each stack, the positions of its tensors among the tree's leaves.
      specs: the tensors' specs in *stack order*: all of the first stack, then the next.
    """

    treedef: Any
    groups: tuple[tuple[int, ...], ...]
    specs: tuple[ParamSpec, ...]

    @property
    def num_tensors(self) -> int:
        """L, the number of tensors in all stacks."""
        return len(self.specs)

    @property
    def group_specs(self) -> tuple[ParamSpec, ...]:
        """For each stack the spec of its first tensor: shape and axes are common."""
        starts = _starts(self.groups)
        return tuple(self.specs[start] for start in starts)

    def pack(self, tree: Params) -> Stacks:
        """The tree's tensors as float32 stacks.

        Raises:
          ValueError: the tree is not the one that this packing was made for.
        """
        leaves, treedef = jax.tree.flatten(tree)
        if treedef != self.treedef:
            raise ValueError(
                "this tree is not the one that the optimizer was initialized with: "
                f"expected {self.treedef}, got {treedef}"
            )
        for group, spec in zip(self.groups, self.group_specs, strict=True):
            for i in group:
                if jnp.shape(leaves[i]) != spec.shape:
                    path = _leaf_path(tree, i)
                    raise ValueError(
                        f"`{path}` has shape {jnp.shape(leaves[i])}, but the optimizer "
                        f"was initialized with {spec.shape}"
                    )
        return tuple(_stack([leaves[i] for i in group]) for group in self.groups)

    def unpack(self, stacks: Stacks, like: Params) -> Params:
        """The tensors of the stacks as a tree, in the dtypes of `like`."""
        leaves = jax.tree.leaves(like)
        out = list(leaves)
        for group, stack in zip(self.groups, stacks, strict=True):
            for row, i in enumerate(group):
                out[i] = stack[row].astype(leaves[i].dtype)
        return jax.tree.unflatten(self.treedef, out)

    def sums(self, stacks: Stacks) -> Array:
        """Sum of each tensor's elements, [L]; [L, M] of stacks [G, M, *shape]."""
        parts = [
            jnp.sum(s, axis=tuple(range(-len(spec.shape), 0)))
            for s, spec in zip(stacks, self.group_specs, strict=True)
        ]
        return jnp.concatenate(parts) if parts else jnp.zeros((0,), jnp.float32)

    def means(self, stacks: Stacks) -> Array:
        """Mean of each tensor's elements, like `sums`; 0 for empty tensors."""
        sums = self.sums(stacks)
        sizes = jnp.asarray([max(math.prod(s.shape), 1) for s in self.specs], jnp.float32)
        return sums / sizes.reshape((-1,) + (1,) * (sums.ndim - 1))

    def rms(self, stacks: Stacks) -> Array:
        """Root mean square of each tensor's elements, likewise."""
        return root(self.means(tuple(s * s for s in stacks)))

    def spread(self, values: Array) -> Stacks:
        """[L, ...] -> for each stack [G, ..., 1, ..., 1], ready to multiply."""
        out = []
        for start, group, spec in zip(
            _starts(self.groups), self.groups, self.group_specs, strict=True
        ):
            part = values[start : start + len(group)]
            out.append(part.reshape(part.shape + (1,) * len(spec.shape)))
        return tuple(out)


def packing(specs: Specs) -> Packing:
    """The packing of parameters with these specs."""
    leaves, treedef = jax.tree.flatten(specs)
    kinds: dict[tuple, list[int]] = {}
    for i, spec in enumerate(leaves):
        alone = i if math.prod(spec.shape) >= STACK_BELOW else -1
        kind = (spec.shape, spec.in_axes, spec.out_axes, alone)
        kinds.setdefault(kind, []).append(i)
    groups = tuple(tuple(group) for group in kinds.values())
    return Packing(treedef, groups, tuple(leaves[i] for g in groups for i in g))


def as_matrices(stack: Array, spec: ParamSpec) -> Array:
    """[G, *shape] -> [G, fan_in, fan_out], for a spec that is a matrix."""
    order = (0, *(a + 1 for a in spec.in_axes), *(a + 1 for a in spec.out_axes))
    return stack.transpose(order).reshape(stack.shape[0], spec.fan_in, spec.fan_out)


def from_matrices(matrices: Array, spec: ParamSpec) -> Array:
    """The inverse of `as_matrices`."""
    axes = (*spec.in_axes, *spec.out_axes)
    shape = (matrices.shape[0], *(spec.shape[a] for a in axes))
    inverse = sorted(range(len(axes)), key=axes.__getitem__)
    return matrices.reshape(shape).transpose(0, *(i + 1 for i in inverse))


def _starts(groups: Sequence[Sequence[int]]) -> list[int]:
    return [0, *itertools.accumulate(map(len, groups))][:-1]


def _stack(tensors: list[Array]) -> Array:
    tensors = [jnp.asarray(t).astype(jnp.float32) for t in tensors]
    return tensors[0][None] if len(tensors) == 1 else jnp.stack(alike(tensors))


def _leaf_path(tree: Params, index: int) -> str:
    path, _ = jax.tree_util.tree_flatten_with_path(tree)[0][index]
    return jax.tree_util.keystr(path, simple=True, separator="/")
