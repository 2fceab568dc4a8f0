"""Tasks whose data are a dataset's splits, and the options that vary such data."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from lopt.base import Array, Batch, Data, Params, PRNGKey, Specs, Split, Task
from lopt.checks import check_integers, check_numbers, check_positive
from lopt.config import BrokenRule
from lopt.data import classes_of, has_classes, sample_batch, train_size
from lopt.data import dataset as splits_of
from lopt.families.stateless import Measured, stateless_task
from lopt.streams import Chunk, chunks

Splits = dict[Split, Any]
"""Examples; those of a chunk are on the host."""


class Loaded(NamedTuple):
    """What of a dataset makes a task."""

    data: Splits  # with a stream, the first chunk
    suffix: str  # what the task's name tells of it
    stream: Callable[[int], Splits] | None


def load(
    dataset: str,
    *,
    of: Literal["classes", "targets"] | None = None,
    num_examples: int | None = None,
    label_noise: float = 0.0,
    input_scale: float = 1.0,
    input_offset: float = 0.0,
    eval_examples: int | None = None,
    classes: Sequence[int] | None = None,
    data_seed: int = 0,
    stream_examples: int | None = None,
) -> Loaded:
    """A dataset as a family's options want it.

    Args:
      dataset: a key of `lopt.data.DATASETS`, or a path.
      of: what its examples must have; None: anything.
      num_examples: and all that follow: as in `lopt.data.dataset`; `classes` are at least
        two.
      stream_examples: of the train split are on the device at a time, as a chunk
        (`lopt.streams`); None: `num_examples`, all the time.

    Raises:
      ConfigError: an option is out of range, or no dataset has this name.
    """
    if not isinstance(dataset, str):
        raise BrokenRule("dataset", "be a name or a path", dataset)
    if of is not None and has_classes(dataset) != (of == "classes"):
        raise BrokenRule("dataset", f"have {of}", dataset)
    check_integers(0, most=2**32 - 1, data_seed=data_seed)
    if classes is not None:
        classes = _checked_classes(classes, dataset)
    if num_examples is not None:
        most = train_size(dataset, classes, data_seed)
        check_integers(1, most=most, num_examples=num_examples)
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
    varied = {
        "label_noise": label_noise,
        "input_scale": input_scale,
        "input_offset": input_offset,
        "classes": classes,
        "seed": data_seed,
    }
    data = splits_of(
        dataset, num_examples=num_examples, eval_examples=eval_examples, **varied
    )
    stream = None
    if stream_examples is not None:
        most = train_size(dataset, classes, data_seed)
        check_integers(1, most=most, stream_examples=stream_examples)
        if num_examples is not None:
            rule = "be absent where `num_examples` is given"
            raise BrokenRule("stream_examples", rule, stream_examples)
        stream = _stream(data, chunks(dataset, size=stream_examples, **varied))
        data = stream(0)
        highest = max(int(y.max()) for _, y in data.values())
        if of == "classes" and highest + 1 < len(classes or classes_of(dataset)):
            rule = "be so many that the first chunk has the last class"
            raise BrokenRule("stream_examples", rule, stream_examples)
    if any(len(y) == 0 for _, y in data.values()):
        raise BrokenRule("classes", "have examples in every split", classes)
    suffix = f"-classes-{'-'.join(map(str, classes))}" if classes is not None else ""
    suffix += f"-{num_examples}-examples" if num_examples is not None else ""
    suffix += f"-stream-{stream_examples}" if stream_examples is not None else ""
    suffix += f"-eval-{eval_examples}" if eval_examples is not None else ""
    suffix += f"-noise-{label_noise:g}" if label_noise else ""
    suffix += f"-scale-{input_scale:g}" if input_scale != 1 else ""
    suffix += f"-offset-{input_offset:g}" if input_offset else ""
    suffix += f"-data-{data_seed}" if data_seed else ""
    return Loaded(data, suffix, stream)


def _stream(fixed: Splits, chunk: Callable[[int], Chunk]) -> Callable[[int], Splits]:
    """Chunks of the train split, in their place among splits that stay."""
    return lambda number: {**fixed, "train": chunk(number)}


def _checked_classes(classes: Any, dataset: str) -> tuple[int, ...]:
    if not has_classes(dataset):
        raise BrokenRule("dataset", "have classes", dataset)
    if not isinstance(classes, list | tuple):
        raise BrokenRule("classes", "be a list", classes)
    known = classes_of(dataset)
    for i, label in enumerate(classes):
        if type(label) is not int or label not in known:
            rule = f"be a class of `{dataset}` ({known[0]} … {known[-1]})"
            raise BrokenRule(f"classes.{i}", rule, label)
    if len(classes) < 2 or len({*classes}) < len(classes):
        raise BrokenRule("classes", "be at least two different ones", classes)
    return tuple(classes)


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

    def batch_fn(key: PRNGKey, data: Data, split: Split) -> Batch:
        return sample_batch(key, data[split], batch_size)

    def eval_batch_fn(data: Data, split: Split) -> Batch:
        return data[split]

    return stateless_task(
        init, loss, specs=specs, batch=batch_fn, eval_batch=eval_batch_fn
    )
