"""Parameters that are spread over several devices.

What jax compiles it shares out by itself, except over the *explicit* axes of a mesh,
those that `jax.make_mesh` makes: there each operation must be told how its result lies.
The products and packs of learned optimizers are not; they run with automatic axes, and
their results are laid out as what they replace.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding

from lopt.base import Array, PyTree


def laid_out(
    function: Callable[..., Any],
    *args: PyTree,
    like: PyTree,
    extra_args: Mapping[str, Any],
) -> Any:
    """`function(*args, **extra_args)`, also of arrays on a mesh with explicit axes.

    Args:
      function: from arrays to arrays.
      args: trees of arrays.
      like: a tree of arrays with the structure of the result, which is laid out like it.
      extra_args: further arguments; arrays, numbers, or functions.
    """
    meshes = [_mesh(x) for x in jax.tree.leaves(args) if is_explicit(x)]
    if not meshes:
        return function(*args, **extra_args)
    functions = {name: x for name, x in extra_args.items() if callable(x)}
    arrays = {name: x for name, x in extra_args.items() if name not in functions}
    layout = jax.tree.map(
        lambda x: NamedSharding(meshes[0], jax.typeof(x).sharding.spec), like
    )

    def run(args: Sequence[Any], arrays: Mapping[str, Any]) -> Any:
        return partial(function, **functions)(*args, **arrays)

    with_automatic_axes: Any = jax.sharding.auto_axes(run, out_sharding=layout)
    return with_automatic_axes(args, arrays)


def alike(tensors: Sequence[Array]) -> list[Array]:
    """The tensors, laid out as the first of them where a mesh has explicit axes."""
    if not any(map(is_explicit, tensors)):
        return list(tensors)
    sharding = jax.typeof(tensors[0]).sharding
    return [jax.sharding.reshard(x, sharding) for x in tensors]


def is_explicit(x: Any) -> bool:
    """Whether an array lies on a mesh with explicit axes."""
    return AxisType.Explicit in _mesh(x).axis_types


def _mesh(x: Any) -> Any:
    return jax.typeof(x).sharding.mesh
