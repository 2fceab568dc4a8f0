"""A Flax Linen model with batch statistics: `lopt meta-train tasks/my_linen.py`."""

import jax.numpy as jnp
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import lopt

MODEL = nn.Sequential(
    [nn.Dense(32), nn.BatchNorm(use_running_average=False), nn.relu, nn.Dense(10)]
)


def init(key):
    """Parameters and batch statistics."""
    variables = MODEL.init(key, jnp.zeros((1, 64)))
    return variables["params"], variables["batch_stats"]


def loss(params, batch_stats, batch, key):
    """Cross-entropy, and the new batch statistics."""
    x, y = batch
    variables = {"params": params, "batch_stats": batch_stats}
    logits, state = MODEL.apply(variables, x, mutable="batch_stats")
    value = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return value, (state["batch_stats"], {})


def task() -> lopt.Task:
    """What a suite calls."""
    x, y = load_digits(return_X_y=True)
    return lopt.task_from(
        name="my-linen", init=init, loss=loss, data=(x / 16, y), has_state=True
    )
