"""Small inner problems with known answers."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lopt import mup
from lopt.base import SPLITS, Array, Data, LearnedOptimizer, Params, Split, Task
from lopt.data import sample_batch


def quadratic(
    *,
    curvature: tuple[float, ...] = (0.5, 1.0, 2.0),
    noise: float = 0.0,
    floor: float = 0.1,
    loss_bound: float = 100.0,
) -> Task:
    """floor + ½ Σ_i curvature_i (w_i - center_i - noise ε_i)², ε from the batch's key.

    The center is the same in every split. φ = {"w": [D]} starts at N(0, 1). Without
    noise gradient descent with rate η is known exactly: `quadratic_descent`.
    """
    dim = len(curvature)
    center = jnp.linspace(-1.0, 1.0, dim) if dim > 1 else jnp.zeros(1)
    leaf = {"curvature": jnp.asarray(curvature), "center": center}
    task = _quadratic(dim, noise, floor, loss_bound)
    return replace(task, data={split: leaf for split in SPLITS})


@cache
def _quadratic(dim: int, noise: float, floor: float, loss_bound: float) -> Task:
    def init(key, data):
        del data
        return {"w": jax.random.normal(key, (dim,))}, ()

    def batch(key, data, split: Split):
        leaf = data[split]
        center = leaf["center"] + noise * jax.random.normal(key, (dim,))
        return {**leaf, "center": center}

    def eval_batch(data, split: Split):
        return data[split]

    def loss(params, model_state, batch, key):
        del key
        offset = params["w"] - batch["center"]
        value = floor + 0.5 * jnp.sum(batch["curvature"] * offset**2)
        return value, (model_state, {"distance": jnp.sqrt(jnp.sum(offset**2))})

    params = {"w": jnp.zeros(dim)}
    return Task(
        name="quadratic",
        data=None,
        specs=mup.infer_specs(params),
        loss_bound=loss_bound,
        init=init,
        batch=batch,
        eval_batch=eval_batch,
        loss=loss,
    )


def quadratic_descent(data: Data, w: Array, rate: float, steps: int) -> Array:
    """Where `steps` of gradient descent on a noiseless `quadratic` lead from w [D]."""
    leaf = data["train"]
    shrink = (1.0 - rate * leaf["curvature"]) ** steps
    return leaf["center"] + shrink * (w - leaf["center"])


def linear_regression(
    *,
    num_inputs: int = 4,
    num_outputs: int = 3,
    num_examples: int = 32,
    batch_size: int = 8,
    noise: float = 0.1,
) -> Task:
    """½ mean squared error of x W + b, W [I, O] and b [O]; `least_squares` solves it.

    Every split has its own examples of one linear map; y = x W* + b* + noise ε.
    """
    random = np.random.RandomState(0)
    map_IxO = random.randn(num_inputs, num_outputs)

    def examples():
        x_NxI = random.randn(num_examples, num_inputs)
        y_NxO = x_NxI @ map_IxO + 0.5 + noise * random.randn(num_examples, num_outputs)
        return jnp.asarray(x_NxI, jnp.float32), jnp.asarray(y_NxO, jnp.float32)

    task = _linear_regression(num_inputs, num_outputs, batch_size)
    return replace(task, data={split: examples() for split in SPLITS})


@cache
def _linear_regression(num_inputs: int, num_outputs: int, batch_size: int) -> Task:
    def init(key, data):
        del data
        w_IxO = jax.random.normal(key, (num_inputs, num_outputs))
        return {"b": jnp.zeros(num_outputs), "w": w_IxO}, ()

    def loss(params, model_state, batch, key):
        del key
        x_BxI, y_BxO = batch
        error_BxO = x_BxI @ params["w"] + params["b"][None, :] - y_BxO
        return 0.5 * jnp.mean(error_BxO**2), (model_state, {})

    params = {"b": jnp.zeros(num_outputs), "w": jnp.zeros((num_inputs, num_outputs))}
    return Task(
        name="linear_regression",
        data=None,
        specs=mup.param_specs(params, roles={"w": "output"}),
        loss_bound=100.0,
        init=init,
        batch=lambda key, data, split: sample_batch(key, data[split], batch_size),
        eval_batch=lambda data, split: data[split],
        loss=loss,
    )


def least_squares(data: Data, split: Split = "train") -> tuple[Params, float]:
    """The parameters with the lowest loss on a whole split, and that loss."""
    x_NxI, y_NxO = (np.asarray(array, np.float64) for array in data[split])
    with_one = np.concatenate([x_NxI, np.ones((len(x_NxI), 1))], axis=1)
    solution, *_ = np.linalg.lstsq(with_one, y_NxO, rcond=None)
    loss = 0.5 * np.mean((with_one @ solution - y_NxO) ** 2)
    params = {"b": jnp.asarray(solution[-1], jnp.float32)}
    params["w"] = jnp.asarray(solution[:-1], jnp.float32)
    return params, float(loss)


def gradient_descent(power=1):
    """Descent with rate theta; `power` such steps at a time on a quadratic.

    On a loss of curvature 1 one step multiplies the error by 1 - rate.
    """

    def opt_fn(theta, *, specs=None, num_steps=None):
        del specs, num_steps
        rate = 1 - (1 - theta["rate"]) ** power
        return optax.with_extra_args_support(optax.sgd(rate))

    return LearnedOptimizer(lambda key: {"rate": jnp.asarray(0.1)}, opt_fn)
