"""Tasks varied from run to run, so that what is learned on few of them is general.

    φ = s φ'       the optimizer sees φ' and s dL/dφ; the model sees φ
    c L            the optimizer sees the value and gradients of c L
    x + σ ε        the inputs of minibatches (and so an autoencoder's targets)
    π(y)           the classes, permuted alike in all splits
    i mod n        of a minibatch's examples the first n, over and over; what the loss
                   itself draws, such as a VAE's codes, differs between the copies

s, c, π and n are drawn at the start of a run and stay, in its model state; ε is drawn
anew in every step. Readings of the meta-loss on a whole split see neither c, σ nor n,
and those of minibatches not c, so that `loss_bound` means what it meant. Shapes cannot
be drawn: that is what a suite's `sweep` is for (lopt.config.sweep).

References:
  Metz et al., VeLO, arXiv 2211.09760, 2022: random reparametrization.
  Moudgil et al., Celo, arXiv 2501.12670, 2025, and Celo2, arXiv 2602.19142, 2026: a few
    small tasks, reparametrized at random, can be enough.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lopt import prng
from lopt.base import (
    UNSCALED_LOSS,
    Array,
    Batch,
    Data,
    ModelState,
    Params,
    PRNGKey,
    Split,
    Task,
    WithFrozen,
)
from lopt.config import AugmentConfig, BrokenRule


class Draw(NamedTuple):
    """What is drawn for a run; of what is off, nothing."""

    factors: Any  # s, of each tensor one or as many as it has elements
    loss_scale: Any  # shape=[], c
    classes: Any  # shape=[C], int32, π
    num_examples: Any  # shape=[], int32, n


class AugmentedState(NamedTuple):
    """The model state of a task that is augmented."""

    draw: Draw
    model_state: ModelState


class Minibatch(NamedTuple):
    """A batch that a step is taken on; whatever else is read has no such mark."""

    batch: Batch


def augment(task: Task, config: AugmentConfig) -> Task:
    """The task, varied from run to run; itself where nothing varies.

    Its specs stay, for they are of φ. muP's exponents do too: s does not depend on the
    width. Its constants do not, and are not meant to: which learning rate is best at the
    base width depends on s, which the optimizer has to find out.

    Raises:
      BrokenRule: the task's batches are not what an augmentation needs.
    """
    if replace(config, reparam_range=AugmentConfig.reparam_range) == AugmentConfig():
        return task
    if config.input_noise:
        _check_inputs(task, config.input_noise)
    num_classes = _num_classes(task) if config.permute_labels else 0
    sizes = _batch_sizes(task, config.min_batch_size) if config.min_batch_size else ()
    functions = task.init, task.batch, task.loss
    init, batch, loss = _functions(*functions, config, num_classes, sizes)
    return replace(task, init=init, batch=batch, loss=loss)


@cache
def _functions(
    init: Callable,
    batch: Callable,
    loss: Callable,
    config: AugmentConfig,
    num_classes: int,
    sizes: tuple[int, ...],
) -> tuple[Callable, Callable, Callable]:
    """Those of the augmented task: the same for the same arguments."""

    def init_fn(key: PRNGKey, data: Data) -> tuple[Params, AugmentedState]:
        init_key, draw_key = prng.split(key, 2)
        params, model_state = init(init_key, data)
        draw = _draw(draw_key, params, config, num_classes, sizes)
        if config.reparametrize != "none":
            params = _times(params, jax.tree.map(jnp.reciprocal, draw.factors))
        return params, AugmentedState(draw, model_state)

    def batch_fn(key: PRNGKey, data: Data, split: Split) -> Batch:
        drawn = batch(key, data, split)
        return Minibatch(drawn) if split == "train" else drawn

    def loss_fn(params: Params, state: AugmentedState, batch: Batch, key: PRNGKey):
        draw, model_state = state
        if config.reparametrize != "none":
            params = _times(params, draw.factors)
        is_minibatch = isinstance(batch, Minibatch)
        if is_minibatch:
            noise_key, key = prng.split(key, 2) if config.input_noise else (key, key)
            vary = partial(_varied, draw=draw, key=noise_key, config=config)
            batch = _on_examples(vary, batch.batch)
        if config.permute_labels:
            batch = _on_examples(partial(_relabeled, classes=draw.classes), batch)
        value, (model_state, metrics) = loss(params, model_state, batch, key)
        if is_minibatch and config.loss_scale != (1.0, 1.0):
            metrics = {**metrics, UNSCALED_LOSS: value}
            value = (value * draw.loss_scale).astype(value.dtype)
        return value, (AugmentedState(draw, model_state), metrics)

    return init_fn, batch_fn, loss_fn


def _draw(
    key: PRNGKey,
    params: Params,
    config: AugmentConfig,
    num_classes: int,
    sizes: tuple[int, ...],
) -> Draw:
    keys = prng.split(key, 4)
    factors = loss_scale = classes = num_examples = ()
    if config.reparametrize != "none":
        factors = _factors(keys[0], params, config)
    if config.loss_scale != (1.0, 1.0):
        loss_scale = _log_uniform(keys[1], config.loss_scale)
    if num_classes:
        classes = jnp.argsort(prng.bits(keys[2], num_classes)).astype(jnp.int32)
    if sizes:
        place = prng.bits(keys[3]) % jnp.uint32(len(sizes))
        num_examples = jnp.asarray(sizes, jnp.int32)[place]
    return Draw(factors, loss_scale, classes, num_examples)


def _factors(key: PRNGKey, params: Params, config: AugmentConfig) -> Any:
    """s, a tree like the parameters'.

    Kept, though a key and as many hashes in every step would do: a number a parameter
    is less than the state of any optimizer that is worth training.
    """
    leaves, treedef = jax.tree.flatten(params)
    keys = prng.split(key, len(leaves))
    level = config.reparametrize
    drawn = [
        _log_uniform(
            keys[0 if level == "global" else i],
            config.reparam_range,
            *(leaf.shape if level == "parameter" else ()),
        )
        for i, leaf in enumerate(leaves)
    ]
    return treedef.unflatten(drawn)


def _times(params: Params, factors: Any) -> Params:
    return jax.tree.map(lambda p, s: (p * s).astype(p.dtype), params, factors)


def _log_uniform(key: PRNGKey, bounds: tuple[float, ...], *shape: int) -> Array:
    low, high = jnp.log(jnp.asarray(bounds, jnp.float32))
    return jnp.exp(low + (high - low) * prng.uniform(key, *shape))


def _on_examples(function: Callable[[Batch], Batch], batch: Batch) -> Batch:
    """What the function makes of a batch, frozen parameters beside it left alone."""
    if isinstance(batch, WithFrozen):
        return batch._replace(batch=function(batch.batch))
    return function(batch)


def _varied(batch: Batch, draw: Draw, key: PRNGKey, config: AugmentConfig) -> Batch:
    """A minibatch as a step sees it; repeated examples have the same noise."""
    if config.input_noise:
        x, y = batch
        noise = prng.normal(key, *x.shape)
        batch = (x + config.input_noise * noise).astype(x.dtype), y
    if config.min_batch_size:
        size = len(jax.tree.leaves(batch)[0])
        index_B = jnp.arange(size) % draw.num_examples
        batch = jax.tree.map(lambda x: x.at[index_B].get(mode="promise_in_bounds"), batch)
    return batch


def _relabeled(pair: Any, classes: Array) -> Any:
    """The pair with other labels, of the kind it was: readings may have one of theirs."""
    x, y = pair
    return jax.tree.unflatten(jax.tree.structure(pair), (x, classes[y]))


def _batch_sizes(task: Task, least: int) -> tuple[int, ...]:
    """The numbers n of different examples that a minibatch may have, all as likely.

    They divide the batch size, so that each example counts as often as any other and
    the gradient is that of a batch of n; where it is a power of two, n is log-uniform.
    """
    lengths = {x.shape[:1] for x in jax.tree.leaves(_minibatch(task))}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise _refused(task, "min_batch_size", "its minibatches are not examples", least)
    ((size,),) = lengths
    sizes = tuple(n for n in range(least, size + 1) if size % n == 0)
    if len(sizes) < 2:
        reason = f"its batch size {size} has no proper divisor of at least {least}"
        raise _refused(task, "min_batch_size", reason, least)
    return sizes


def _num_classes(task: Task) -> int:
    """C, one more than the largest label in the whole data of any split."""
    highest = 0
    data = task.data if isinstance(task.data, Mapping) else {}
    data = data["task"] if "start" in data else data  # of a task that is fine-tuned
    for split in task.splits:
        examples = data.get(split) if isinstance(data, Mapping) else None
        pairs = examples, _minibatch(task), _fixed_batch(task, split)
        if not all(_is_pair(pair, 1, jnp.integer) for pair in pairs):
            reason = "its data and batches are not (x, y) with integers for y"
            raise _refused(task, "permute_labels", reason, True)
        lowest = int(jnp.min(examples[1]))
        if lowest < 0:
            reason = f"it has the label {lowest}"
            raise _refused(task, "permute_labels", reason, True)
        highest = max(highest, int(jnp.max(examples[1])))
    return highest + 1


def _check_inputs(task: Task, noise: float) -> None:
    if not _is_pair(_minibatch(task), 0, jnp.floating):
        reason = "its minibatches are not (x, y) with floating-point numbers for x"
        raise _refused(task, "input_noise", reason, noise)


def _refused(task: Task, key: str, reason: str, value: Any) -> BrokenRule:
    off = str(getattr(AugmentConfig, key)).lower()
    rule = f"be {off} for task `{task.name}`: {reason}"
    return BrokenRule(key, rule, value, hint=f"in its own table: `augment.{key} = {off}`")


def _minibatch(task: Task) -> Any:
    """The shapes of one's examples."""
    key = jax.random.key(0)
    batch = jax.eval_shape(lambda k, d: task.batch(k, d, "train"), key, task.data)
    return batch.batch if isinstance(batch, WithFrozen) else batch


def _fixed_batch(task: Task, split: Split) -> Any:
    batch = jax.eval_shape(lambda d: task.eval_batch(d, split), task.data)
    return batch.batch if isinstance(batch, WithFrozen) else batch


def _is_pair(batch: Any, place: int, kind: Any) -> bool:
    """Whether it is a tuple of two, of which this one is an array of that type."""
    if not isinstance(batch, tuple) or len(batch) != 2:
        return False
    return hasattr(batch[place], "dtype") and jnp.issubdtype(batch[place].dtype, kind)
