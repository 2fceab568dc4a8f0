"""A check that an optimizer is updated with the parameters it was initialized with."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt.base import Params


@jax.tree_util.register_static
@dataclass(frozen=True)
class Layout:
    """Names and shapes of a tree's leaves; a pytree without leaves."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]


class GuardedState(NamedTuple):
    """An optimizer's state and what it was made for."""

    inner: optax.OptState
    layout: Layout


def guarded(
    optimizer: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, whose `update` refuses other trees than that of its `init`.

    The check runs while jax traces and leaves nothing in the compiled program.
    """

    def init_fn(params) -> Any:
        return GuardedState(optimizer.init(params), layout(params))

    def update_fn(updates, state, params=None, **extra_args) -> tuple[Any, Any]:
        compare("gradients", state.layout, layout(updates))
        if params is not None:
            compare("parameters", state.layout, layout(params))
        updates, inner = optimizer.update(updates, state.inner, params, **extra_args)
        return updates, GuardedState(inner, state.layout)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def layout(tree: Params) -> Layout:
    """The layout of a tree of arrays."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return Layout(tuple((jax.tree_util.keystr(p), jnp.shape(x)) for p, x in leaves))


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
