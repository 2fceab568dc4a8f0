"""What tests of families share."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from lopt.base import Array, Batch, Params, Task

quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
"""For programs that take longer to compile than to run."""


def params_without_zeros(task: Task, key: Array, noise: float = 0.2) -> Params:
    """Parameters none of which is zero, or alike for all outputs."""
    params, _ = quick(task.init)(key, task.data)
    random = np.random.RandomState(0)
    return jax.tree.map(
        lambda p: jnp.asarray(p + noise * random.randn(*p.shape), jnp.float32), params
    )


def loss_and_metrics(
    task: Task, params: Params, batch: Batch, key: Array
) -> tuple[float, dict[str, float]]:
    """Of a task without model state, as numbers."""
    loss, (_, metrics) = quick(task.loss)(params, (), batch, key)
    return float(loss), {name: float(value) for name, value in metrics.items()}
