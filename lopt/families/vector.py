"""Tasks in one vector, whose optimum is known and moves from minibatch to minibatch."""

from collections.abc import Callable

import jax.numpy as jnp

from lopt import prng
from lopt.base import Array, Data, Params, ParamSpec, PRNGKey, Split, Task
from lopt.families.stateless import Measured, stateless_task


def vector_task(
    width: int, measure: Callable[[Array, dict[str, Array]], tuple[Array, Array]]
) -> Task:
    """A task without its name and data; metrics: `distance` from the optimum, RMS.

    It starts from N(0, 1), and should cost 1 there on average. Its data are `optimum`
    [D], `noise` [], and what else `measure` needs; a minibatch has these and `moved`, its
    own optimum, `noise` from the true one, which stands for it in evaluation.

    Args:
      width: D, the number of coordinates.
      measure: `(x, batch) -> (loss [], offset [D])` from the optimum.
    """
    spec = ParamSpec(role="bias", shape=(width,), out_axes=(0,), depth=0.0, num_layers=1)

    def init(key: PRNGKey) -> Params:
        return {"x": prng.normal(key, width)}

    def batch(key: PRNGKey, data: Data, split: Split) -> dict[str, Array]:
        del split
        moved = data["optimum"] + data["noise"] * prng.normal(key, width)
        return {**data, "moved": moved}

    def eval_batch(data: Data, split: Split) -> dict[str, Array]:
        del split
        return {**data, "moved": data["optimum"]}

    def loss(params: Params, batch: dict[str, Array], key: PRNGKey) -> Measured:
        del key
        value, offset_D = measure(params["x"], batch)
        return value, {"distance": jnp.sqrt(jnp.mean(offset_D**2))}

    return stateless_task(
        init,
        loss,
        specs={"x": spec},
        batch=batch,
        eval_batch=eval_batch,
        loss_bound=5.0,
    )
