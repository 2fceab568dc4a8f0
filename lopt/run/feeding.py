"""Chunks of streamed tasks, read and put on the device before the loop asks for them.

Which chunk an outer step gets is a function of its number, so the order, the resuming and
the randomness are lopt's. What grain adds is its thread that reads ahead: chunk c+1 is on
its way to the device while the steps on chunk c are made. A `ThreadPoolExecutor` would do
as well; grain's threads, buffers and statistics are those its users know how to look at.
On the device are a chunk, the next one, and for a moment the last one.
"""

from collections.abc import Callable

import jax

from lopt.base import Data
from lopt.errors import ConfigError
from lopt.trainer import Trainer


def feeding(trainer: Trainer, every: int, done: int) -> Callable[[int], tuple[Data, ...]]:
    """`done -> datas` of the next outer step; steps are asked for in their order.

    A chunk that is not there yet is waited for.

    Args:
      trainer: whose tasks may be streamed.
      every: outer steps that each chunk is trained on.
      done: outer steps that are done.

    Raises:
      ConfigError: a task is streamed and grain is not installed; by what is returned, a
        chunk cannot be read.
    """
    groups = trainer.groups
    if not any(group.streams for group in groups):
        return lambda _: trainer.datas
    try:
        import grain
    except ImportError:
        message = "a task with `stream_examples` needs the package `grain`"
        raise ConfigError(message, hint="`pip install 'lopt[streaming]'`") from None

    def load(number: int) -> tuple[Data, ...]:
        return jax.device_put(tuple(group.chunk(number) for group in groups))

    number, last = done // every - 1, max(trainer.outer_steps - 1, done) // every
    numbers = grain.MapDataset.range(number + 1, last + 1)
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    loaded = iter(numbers.map(load).to_iter_dataset(ahead))
    datas: tuple[Data, ...] = ()

    def datas_after(done: int) -> tuple[Data, ...]:
        nonlocal number, datas
        while number < done // every:
            datas = ()  # else three chunks were there while this one is waited for
            number, datas = number + 1, next(loaded)
        return datas

    return datas_after
