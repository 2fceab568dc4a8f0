"""A task of one's own, an autoencoder: `lopt meta-train tasks/my_task.py`."""

import jax
import jax.numpy as jnp
from sklearn.datasets import load_digits

import lopt


def init(key):
    """Weights from 64 pixels to a code of 16 numbers, and back."""
    encode_key, decode_key = jax.random.split(key)
    encode = jax.random.normal(encode_key, (64, 16)) / 8
    return {"encode": encode, "decode": jax.random.normal(decode_key, (16, 64)) / 4}


def loss(params, batch, key):
    """Mean squared error of what the code tells of the image; the mean image's is 1."""
    error = jnp.tanh(batch @ params["encode"]) @ params["decode"] - batch
    return jnp.mean(error**2)


def task(*, batch_size: int = 64) -> lopt.Task:
    """What a suite calls, with the options that it gives."""
    x = load_digits().data
    x -= x.mean(axis=0)
    data = x / x.std()
    return lopt.task_from(
        name="autoencoder", init=init, loss=loss, data=data, batch_size=batch_size
    )
