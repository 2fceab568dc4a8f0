"""The part of a run's state that has derivatives."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lopt.base import Array, PyTree


def inexact(tree: PyTree) -> tuple[Array, ...]:
    """The leaves that derivatives pass through: real numbers, not counts or keys."""
    return tuple(x for x in jax.tree.leaves(tree) if _is_inexact(x))


def rebuild(tree: PyTree) -> Callable[[tuple[Array, ...]], PyTree]:
    """`leaves -> tree`: the tree with other inexact leaves."""
    leaves, treedef = jax.tree.flatten(tree)

    def build(replaced):
        given = iter(replaced)
        return treedef.unflatten([next(given) if _is_inexact(x) else x for x in leaves])

    return build


def _is_inexact(x: Array) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.inexact))
