"""Tasks of models without a state, such as batch statistics."""

import math
from collections.abc import Callable

from lopt.base import Array, Batch, Data, ModelState, Params, PRNGKey, Specs, Split, Task

Measured = tuple[Array, dict[str, Array]]
"""A loss [] and metrics, a dict of scalars."""


def stateless_task(
    init: Callable[[PRNGKey], Params],
    loss: Callable[[Params, Batch, PRNGKey], Measured],
    *,
    specs: Specs,
    batch: Callable[[PRNGKey, Data, Split], Batch],
    eval_batch: Callable[[Data, Split], Batch],
    loss_bound: float = math.inf,
) -> Task:
    """A task without its name and data.

    Args:
      init: `key -> params`.
      loss: `(params, batch, key) -> (loss [], metrics)`.
      specs: and all that follow: as in `Task`.
    """

    def init_fn(key: PRNGKey, data: Data) -> tuple[Params, ModelState]:
        del data
        return init(key), ()

    def loss_fn(params: Params, model_state: ModelState, batch: Batch, key: PRNGKey):
        value, metrics = loss(params, batch, key)
        return value, (model_state, metrics)

    return Task(
        name="",
        data=None,
        specs=specs,
        loss_bound=loss_bound,
        init=init_fn,
        batch=batch,
        eval_batch=eval_batch,
        loss=loss_fn,
    )
