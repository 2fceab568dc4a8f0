"""A task that starts from tensors by name, which are part of its data.

    data = {"task": the task's own, "start": {"trained", "frozen", "model_state"}}

Each of the two trees of parameters has None where a tensor is not its own; `params`, too,
have None where a tensor is frozen, for an optimizer sees only what it trains. Frozen
tensors come to the loss with the minibatch, so that particles do not copy them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lopt.base import Batch, Data, ModelState, Params, PRNGKey, Split, Task, WithFrozen
from lopt.config import BrokenRule
from lopt.errors import ConfigError
from lopt.streams import with_data

Place = Literal["trained", "frozen", "fresh"]
"""From the start and trained; from the start and not trained; initialized anew."""

MODEL_STATE = "model_state/"
"""What the names of a model state's tensors begin with."""


def names(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their names, such as `layer_0/w`, in its order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
    }


def covers(pattern: str, name: str) -> bool:
    """Whether a glob matches a name, or its beginning up to a `/`."""
    parts = name.split("/")
    beginnings = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatchcase(beginning, pattern) for beginning in beginnings)


def places(
    task: Task, *, frozen: Sequence[str], fresh: Sequence[str]
) -> dict[str, Place]:
    """What becomes of each parameter, by its name.

    Raises:
      ConfigError: a pattern matches nothing, a tensor is both frozen and fresh, or none
        is left to be trained.
    """
    known = list(names(task.specs))
    for key, patterns in (("frozen", frozen), ("fresh", fresh)):
        for i, pattern in enumerate(patterns):
            if not any(covers(pattern, name) for name in known):
                rule = f"match a tensor of task `{task.name}`"
                hint = f"its tensors: {few(known, most=8)}"
                raise BrokenRule(f"{key}.{i}", rule, pattern, hint=hint)
    found: dict[str, Place] = {}
    for name in known:
        is_frozen, is_fresh = (
            any(covers(pattern, name) for pattern in patterns)
            for patterns in (frozen, fresh)
        )
        if is_frozen and is_fresh:
            raise ConfigError(f"tensor `{name}` must not be both frozen and fresh")
        found[name] = "frozen" if is_frozen else "fresh" if is_fresh else "trained"
    if all(place == "frozen" for place in found.values()):
        raise BrokenRule("frozen", "leave a tensor to be trained", list(frozen))
    return found


def few(tensors: Sequence[str], *, most: int = 3) -> str:
    """Names for a message, so many of them at most."""
    told = ", ".join(f"`{name}`" for name in tensors[:most])
    return told + (f" and {len(tensors) - most} more" if len(tensors) > most else "")


def started(
    task: Task, tensors: Mapping[str, np.ndarray], chosen: Mapping[str, Place]
) -> Task:
    """The task, started from these tensors.

    Args:
      task: with initial parameters of its own.
      tensors: parameters by name, but for those that are fresh; those of a model state
        after `model_state/`.
      chosen: what becomes of each parameter, in the tree's order.
    """
    _, model_state = jax.eval_shape(task.init, jax.random.key(0), task.data)
    treedef = jax.tree.structure(task.specs)

    def part(place: Place) -> Params:
        return treedef.unflatten(
            jnp.asarray(tensors[name]) if at == place else None
            for name, at in chosen.items()
        )

    state = [jnp.asarray(tensors[MODEL_STATE + name]) for name in names(model_state)]
    start = {
        "trained": part("trained"),
        "frozen": part("frozen"),
        "model_state": jax.tree.unflatten(jax.tree.structure(model_state), state),
    }
    specs = [
        None if place == "frozen" else spec
        for place, spec in zip(chosen.values(), jax.tree.leaves(task.specs), strict=True)
    ]
    is_fresh = tuple(place == "fresh" for place in chosen.values())
    return replace(
        with_data(task, lambda data: {"task": data, "start": start}),
        name=f"{task.name}-finetuned",
        specs=treedef.unflatten(specs),
        **_functions(task.init, task.batch, task.eval_batch, task.loss, is_fresh),
    )


@cache
def _functions(
    init: Callable,
    batch: Callable,
    eval_batch: Callable,
    loss: Callable,
    is_fresh: tuple[bool, ...],
) -> dict[str, Callable]:
    """The functions of a task that is started; the same ones for the same arguments."""

    def init_fn(key: PRNGKey, data: Data) -> tuple[Params, ModelState]:
        leaves, treedef = jax.tree.flatten(init(key, data["task"])[0])
        drawn = [x if fresh else None for x, fresh in zip(leaves, is_fresh, strict=True)]
        start = data["start"]
        params = _either(start["trained"], treedef.unflatten(drawn))
        return params, start["model_state"]

    def batch_fn(key: PRNGKey, data: Data, split: Split) -> Batch:
        return WithFrozen(data["start"]["frozen"], batch(key, data["task"], split))

    def eval_batch_fn(data: Data, split: Split) -> Batch:
        return WithFrozen(data["start"]["frozen"], eval_batch(data["task"], split))

    def loss_fn(params: Params, model_state: ModelState, batch: Batch, key: PRNGKey):
        frozen, examples = batch
        return loss(_either(params, frozen), model_state, examples, key)

    return {
        "init": init_fn,
        "batch": batch_fn,
        "eval_batch": eval_batch_fn,
        "loss": loss_fn,
    }


def _either(tree: Params, other: Params) -> Params:
    """Each tensor from the tree that has it."""
    return jax.tree.map(
        lambda x, y: y if x is None else x, tree, other, is_leaf=lambda x: x is None
    )
