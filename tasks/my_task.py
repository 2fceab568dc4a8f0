"""A task of one's own, an autoencoder: `lopt meta-train tasks/my_task.py`."""

import jax
import jax.numpy as jnp

from lopt.base import Task
from lopt.data import dataset, sample_batch
from lopt.mup import infer_specs


def init(key, data):
    """Weights from 64 pixels to a code of 16 numbers, and back."""
    encode_key, decode_key = jax.random.split(key)
    encode = jax.random.normal(encode_key, (64, 16)) / 8
    return {"encode": encode, "decode": jax.random.normal(decode_key, (16, 64)) / 4}, ()


def loss(params, model_state, batch, key):
    """Mean squared error of what the code tells of the image; the mean image's is 1."""
    x, _ = batch
    error = jnp.tanh(x @ params["encode"]) @ params["decode"] - x
    return jnp.mean(error**2), (model_state, {})


def task(*, batch_size: int = 64) -> Task:
    """What a suite calls, with the options that it gives."""
    data = dataset("digits")
    return Task(
        name="autoencoder",
        data=data,
        specs=infer_specs(jax.eval_shape(init, jax.random.key(0), data)[0]),
        loss_bound=1.5,
        init=init,
        batch=lambda key, data, split: sample_batch(key, data[split], batch_size),
        eval_batch=lambda data, split: data[split],
        loss=loss,
    )
