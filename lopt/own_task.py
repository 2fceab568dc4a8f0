"""A user's own model and data as a `Task`, from plain functions.

    init(key) -> params            loss(params, batch, key) -> loss, or (loss, metrics)

A model of Flax or Equinox becomes such functions by one line of its own package
(`apply`, `merge`, `combine`), so that there is nothing here to adapt it; tasks/ has an
example of each.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lopt import prng
from lopt.base import SPLITS, Params, Specs, Task
from lopt.checks import check_integers
from lopt.compiling import compile_lowered
from lopt.data import sample_batch, split_indices
from lopt.errors import ConfigError
from lopt.mup import param_specs
from lopt.suites import complaint


def task_from(
    *,
    name: str,
    init: Callable[..., Any],
    loss: Callable[..., Any],
    data: Any,
    batch_size: int = 64,
    eval_size: int = 400,
    has_state: bool = False,
    specs: Callable[[Params], Specs] = param_specs,
    loss_bound: float | None = None,
) -> Task:
    """A task of one's own. Tasks of the same functions share one compiled program.

    Args:
      name: for people.
      init: `key -> params`, any pytree of floating-point arrays.
      loss: `(params, batch, key) -> loss []`, or `(loss, metrics)`, metrics a dict of
        scalars. Read on every split, and in training.
      data: arrays [N, ...] in any pytree, such as `x` or `(x, y)`, split here by a fixed
        draw into 55 % train, 15 % meta, 15 % valid and 15 % test; or a dict of such
        pytrees, one for each split.
      batch_size: examples of a minibatch, drawn uniformly with replacement.
      eval_size: most examples of a split that curves are read on, the same each time.
      has_state: whether the model has a state, such as batch statistics. Then
        `init(key) -> (params, model_state)`, and
        `loss(params, model_state, batch, key) -> (loss, (model_state, metrics))`.
      specs: of the parameters. Where outputs are the first axis of a kernel, as in
        Equinox: `functools.partial(lopt.param_specs, output_axis=0)`.
      loss_bound: the loss that stands for "diverged"; None: 1.5 times the largest loss
        at four initializations, up to the next power of two (found in a second or two).

    Raises:
      ConfigError: data that are not arrays of numbers, of one length in each split, or
        not finite; without `loss_bound`, functions that break the interface of `Task`
        (a suite checks all tasks), or a loss at initialization that is not positive and
        finite.
    """
    check_integers(1, batch_size=batch_size, eval_size=eval_size)
    functions = _functions(init, loss, has_state, batch_size, eval_size)
    params, _ = jax.eval_shape(functions.init, jax.random.key(0), None)
    splits = _splits(data)
    task = replace(
        functions,
        name=name,
        data=jax.tree.map(jnp.asarray, splits),
        splits=tuple(splits),
        specs=specs(params),
        loss_bound=1.0 if loss_bound is None else loss_bound,
    )
    return task if loss_bound is not None else replace(task, loss_bound=_bound(task))


@cache
def _functions(
    init: Callable, loss: Callable, has_state: bool, batch_size: int, eval_size: int
) -> Task:
    """The task without all else: the same functions for the same arguments."""

    def init_fn(key, data):
        del data
        match init(key):
            case made if not has_state:
                return made, ()
            case (params, model_state):
                return params, model_state
            case made:
                got = f"`{type(made).__name__}`"
                rule = "must return `(params, model_state)` where `has_state`"
                raise ConfigError(f"`init` {rule}, got {got}")

    def batch(key, data, split):
        return sample_batch(key, data[split], batch_size)

    def eval_batch(data, split):
        return jax.tree.map(lambda x: x[:eval_size], data[split])

    def stateless_loss(params, model_state, batch, key):
        match loss(params, batch, key):
            case (value, dict() as metrics):
                return value, (model_state, metrics)
            case value:
                return value, (model_state, {})

    return Task(
        name="",
        data=None,
        specs=None,
        loss_bound=0.0,
        init=init_fn,
        batch=batch,
        eval_batch=eval_batch,
        loss=loss if has_state else stateless_loss,
    )


def _bound(task: Task) -> float:
    """1.5 times the largest loss at four initializations, up to a power of two.

    Coarse, so that tasks that differ in their data alone share it, and their program.
    """
    if told := complaint(task):
        raise ConfigError(f"task `{task.name}` {told}")

    def worst(data):
        def start(key):
            init_key, loss_key = prng.split(key, 2)
            params, model_state = task.init(init_key, data)
            batch = task.eval_batch(data, "train")
            return task.loss(params, model_state, batch, loss_key)[0]

        return jnp.max(jax.lax.map(start, prng.split(jax.random.key(0), 4)))

    lowered = jax.jit(worst).lower(task.data)
    largest = float(compile_lowered(lowered, small=True)(task.data))
    if not 0 < largest < math.inf:
        message = f"task `{task.name}` has a loss of {largest:g} at initialization"
        hint = "make it positive and finite, or give `loss_bound`"
        raise ConfigError(message, hint=hint)
    return 2.0 ** math.ceil(math.log2(1.5 * largest))


def _splits(data: Any) -> dict[str, Any]:
    """The arrays of each split, checked, in an order that says nothing."""
    if isinstance(data, Mapping) and {*data} & {*SPLITS}:
        found = {split: _examples(data[split], f"data.{split}") for split in data}
        return {s: _rows(given, _order(size)) for s, (given, size) in found.items()}
    examples, size = _examples(data, "data")
    indices = split_indices(np.arange(size), 0, sizes=(size,) * len(SPLITS))
    if not all(len(index) for index in indices):
        raise ConfigError(f"`data` must have examples for four splits, got {size}")
    return {s: _rows(examples, i) for s, i in zip(SPLITS, indices, strict=True)}


def _order(size: int) -> np.ndarray:
    # RandomState, because numpy promises that its stream will never change.
    return np.random.RandomState(0).permutation(size)


def _rows(examples: Any, index: np.ndarray) -> Any:
    return jax.tree.map(lambda x: x[index], examples)


def _examples(given: Any, where: str) -> tuple[Any, int]:
    """Arrays, checked, and their length."""
    leaves, treedef = jax.tree_util.tree_flatten_with_path(given)
    arrays = [_array(leaf, where + jax.tree_util.keystr(p)) for p, leaf in leaves]
    sizes = {len(array) for array in arrays}
    if len(sizes) != 1 or 0 in sizes:
        got = ", ".join(map(str, sorted(sizes))) or "none"
        raise ConfigError(f"`{where}` must be arrays of one length above 0, got {got}")
    return treedef.unflatten(arrays), sizes.pop()


def _array(leaf: Any, where: str) -> np.ndarray:
    """The leaf as an array of the type that it has on the device, checked."""
    given = np.asarray(leaf)
    is_number = any(jnp.issubdtype(given.dtype, kind) for kind in (jnp.number, jnp.bool))
    if given.ndim == 0 or not is_number:
        got = f"{given.dtype}{list(given.shape)}"
        raise ConfigError(f"`{where}` must be an array of numbers [N, ...], got {got}")
    kind = jax.eval_shape(jnp.asarray, given).dtype  # of 32 bits, where jax has no more
    with np.errstate(over="ignore"):
        array = given.astype(kind)
    wraps = jnp.issubdtype(kind, jnp.integer) and array != given
    wrong = np.argwhere(wraps | ~np.isfinite(array))
    if len(wrong):
        got = f"{given[tuple(wrong[0])]} in row {wrong[0][0]}"
        raise ConfigError(f"`{where}` must be finite and fit {kind}, got {got}")
    return array
