"""The smallest task and the smallest learned optimizer: runs compile in a second."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lopt.base import SPLITS, LearnedOptimizer, ParamSpec, Task


def _init(key, data):
    del data
    return {"w": jax.random.normal(key, (3,))}, ()


def _batch(key, data, split):
    return data[split] + 0.1 * jax.random.normal(key, (3,))


def _eval_batch(data, split):
    return data[split]


def _loss(params, model_state, batch, key):
    del key
    loss = 0.1 + jnp.sum(jnp.square(params["w"] - batch))
    return loss, (model_state, {})


def task(*, scale: float = 1.0, streamed: bool = False) -> Task:
    """A noisy paraboloid; its center is so many times further out, in each chunk more."""
    data = {split: scale * jnp.asarray([1.0, -1.0, 0.5]) for split in SPLITS}

    def stream(chunk):
        return {**data, "train": np.asarray(data["train"]) + np.float32(chunk)}

    return Task(
        name="toy",
        data=stream(0) if streamed else data,
        stream=stream if streamed else None,
        specs={"w": ParamSpec(role="bias", shape=(3,))},
        loss_bound=100.0,
        init=_init,
        batch=_batch,
        eval_batch=_eval_batch,
        loss=_loss,
    )


def optimizer(*, rate: float = 0.1, num_rates: int = 2) -> LearnedOptimizer:
    """SGD whose learning rate is `rate` times exp of the mean of theta."""

    def init(key):
        del key
        return {"log": {"rate": jnp.zeros((num_rates,))}}

    def opt_fn(theta, *, specs=None, num_steps=None):
        del specs, num_steps
        scale = rate * jnp.exp(jnp.mean(theta["log"]["rate"]))

        def update(grads, state, params=None, **extra_args):
            del params, extra_args
            return jax.tree.map(lambda g: -scale * g, grads), state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    return LearnedOptimizer(init, opt_fn)
