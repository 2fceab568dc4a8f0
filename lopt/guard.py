"""An optimizer for people's loops: under optax's and other packages' wrappers, guarded.

It is updated with the parameters that it was initialized with, and else says so. Wrappers
mask parameters out (`optax.masked`, `optax.partition`), keep them in boxes (Flax NNX
initializes with `Variable`s, and updates with what is in them) or spread them over
devices. Learned optimizers need to know nothing of it: they get a tuple of leaves.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt.base import Params, ParamSpec, Specs
from lopt.sharding import laid_out


@jax.tree_util.register_static
class Layout(NamedTuple):
    """Names and shapes of a tree's leaves; a pytree without leaves.

    A tuple all the same: Flax serializes those.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]


class GuardedState(NamedTuple):
    """An optimizer's state and what it was made for."""

    inner: optax.OptState
    layout: Layout


def guarded(
    opt_fn: Callable[..., optax.GradientTransformationExtraArgs],
    *,
    specs: Specs | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, whose `update` refuses other trees than that of its `init`.

    The check runs while jax traces and leaves nothing in the compiled program.

    Args:
      opt_fn: from the keyword `specs` to the optimizer.
      specs: of all parameters, masked ones, too; None: inferred from shapes.
    """
    opt_fn(specs=specs)  # complains now of what it lacks

    def made_for(params) -> optax.GradientTransformationExtraArgs:
        return opt_fn(specs=None if specs is None else specs_of(params, specs))

    def init_fn(params) -> Any:
        return GuardedState(made_for(params).init(leaves(params)), layout(params))

    def update_fn(updates, state, params=None, **extra_args) -> tuple[Any, Any]:
        compare("gradients", state.layout, layout(updates))
        if params is not None:
            compare("parameters", state.layout, layout(params))
        g, p = leaves(updates), None if params is None else leaves(params)
        changes, inner = laid_out(
            made_for(updates).update,
            *(g, state.inner, p),
            like=(g, state.inner),
            extra_args=extra_args,
        )
        treedef = jax.tree.structure(updates)
        return treedef.unflatten(changes), GuardedState(inner, state.layout)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def leaves(tree: Params) -> tuple[Any, ...]:
    """The arrays of a tree, in order."""
    return tuple(jax.tree.leaves(tree))


def layout(tree: Params) -> Layout:
    """The layout of a tree of arrays."""
    return Layout(tuple((name, jnp.shape(x)) for name, x in named(tree)))


def specs_of(params: Params, specs: Specs) -> tuple[ParamSpec, ...]:
    """The specs of those parameters that are there, in order.

    Raises:
      ValueError: a parameter has none.
    """
    known = dict(named(specs))
    found = []
    for name, _ in named(params):
        if name not in known:
            raise ValueError(f"`specs` lack `{name}`: they must be of these parameters")
        found.append(known[name])
    return tuple(found)


def named(tree: Any) -> list[tuple[str, Any]]:
    """The leaves by name; what is in a box has the name of the box."""
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    box = jax.tree_util.GetAttrKey("value")
    return [
        (jax.tree_util.keystr(path[:-1] if path[-1:] == (box,) else path), leaf)
        for path, leaf in found
    ]


def compare(what: str, expected: Layout, given: Layout) -> None:
    """Raises `ValueError`, naming the first leaf that differs."""
    if expected == given:
        return
    before, now = dict(expected.shapes), dict(given.shapes)
    for name in before | now:
        if name not in now:
            rule = f"{what} lack `{name}`"
        elif name not in before:
            rule = f"{what} have an unknown `{name}`"
        elif before[name] != now[name]:
            shapes = f"shape {list(now[name])}, not {list(before[name])}"
            rule = f"{what} have `{name}` of {shapes}"
        else:
            continue
        raise ValueError(
            f"the optimizer was initialized with other parameters: {rule}; "
            "call `init` anew for a new tree"
        )
    raise ValueError(f"the {what} have the leaves of `init` in another order")
