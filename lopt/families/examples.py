"""Tasks whose data are a dataset's splits, and the options that vary such data."""

import math
from collections.abc import Callable, Iterable
from typing import Literal

import jax.numpy as jnp

from lopt.base import Array, Batch, Data, ModelState, Params, PRNGKey, Specs, Split, Task
from lopt.config import BrokenRule
from lopt.data import Examples, dataset, sample_batch, train_size
from lopt.families.checks import check_integers, check_numbers, check_positive

Splits = dict[Split, Examples]
Measured = tuple[Array, dict[str, Array]]
"""A loss [] and metrics, a dict of scalars."""
KINDS = {"classes": jnp.integer, "targets": jnp.floating}
"""What the second half of an example is."""


def load(
    name: str,
    *,
    of: Literal["classes", "targets"] | None = None,
    num_examples: int | None = None,
    label_noise: float = 0.0,
    input_scale: float = 1.0,
    input_offset: float = 0.0,
    eval_examples: int | None = None,
    data_seed: int = 0,
) -> tuple[Splits, str]:
    """A dataset as a family's options want it, and what of that a task's name tells.

    Args:
      name: a key of `lopt.data.DATASETS`, or a path.
      of: what its examples must have; None: anything.
      num_examples: and all that follow: as in `lopt.data.dataset`.

    Raises:
      ConfigError: an option is out of range, or no dataset has this name.
    """
    if not isinstance(name, str):
        raise BrokenRule("dataset", "be a name or a path", name)
    plain = dataset(name)
    _, labels = plain["train"]
    if of is not None and not jnp.issubdtype(labels.dtype, KINDS[of]):
        raise BrokenRule("dataset", f"have {of}", name)
    if num_examples is not None:
        check_integers(1, most=train_size(name), num_examples=num_examples)
    if eval_examples is not None:
        check_integers(1, eval_examples=eval_examples)
    rule = "be a number of at least 0 and below 1"
    check_numbers(lambda v: 0 <= v < 1, rule, label_noise=label_noise)
    check_positive(input_scale=input_scale)
    check_numbers(
        lambda v: -math.inf < v < math.inf,
        "be a finite number",
        input_offset=input_offset,
    )
    if type(data_seed) is not int or not 0 <= data_seed < 2**32:
        raise BrokenRule("data_seed", "be an integer of at least 0", data_seed)
    data = dataset(
        name,
        num_examples=num_examples,
        label_noise=label_noise,
        input_scale=input_scale,
        input_offset=input_offset,
        eval_examples=eval_examples,
        seed=data_seed,
    )
    suffix = f"-{num_examples}-examples" if num_examples is not None else ""
    suffix += f"-eval-{eval_examples}" if eval_examples is not None else ""
    suffix += f"-noise-{label_noise:g}" if label_noise else ""
    suffix += f"-scale-{input_scale:g}" if input_scale != 1 else ""
    suffix += f"-offset-{input_offset:g}" if input_offset else ""
    return data, suffix + (f"-data-{data_seed}" if data_seed else "")


def guess_bound(values: Iterable[Array]) -> float:
    """1.5 times the squared error of a guess at zero, where that is largest."""
    return 1.5 * max(float(jnp.mean(split**2)) for split in values)


def task_on_examples(
    init: Callable[[PRNGKey], Params],
    loss: Callable[[Params, Batch, PRNGKey], Measured],
    *,
    specs: Specs,
    batch_size: int,
) -> Task:
    """A task on minibatches and whole splits, without its name, data and bound.

    Args:
      init: `key -> params`.
      loss: `(params, batch, key) -> (loss [], metrics)`.
      specs: of the parameters.
      batch_size: examples of a minibatch, drawn with replacement.
    """

    def init_fn(key: PRNGKey, data: Data) -> tuple[Params, ModelState]:
        del data
        return init(key), ()

    def batch_fn(key: PRNGKey, data: Data, split: Split) -> Batch:
        return sample_batch(key, data[split], batch_size)

    def eval_batch_fn(data: Data, split: Split) -> Batch:
        return data[split]

    def loss_fn(params: Params, model_state: ModelState, batch: Batch, key: PRNGKey):
        value, metrics = loss(params, batch, key)
        return value, (model_state, metrics)

    return Task(
        name="",
        data=None,
        specs=specs,
        loss_bound=math.inf,
        init=init_fn,
        batch=batch_fn,
        eval_batch=eval_batch_fn,
        loss=loss_fn,
    )
