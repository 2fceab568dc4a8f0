"""A Flax NNX model as a task: `lopt meta-train tasks/my_nnx.py`."""

import optax
from flax import nnx
from sklearn.datasets import load_digits

import lopt


def model(rngs):
    """A classifier of 64 pixels, with dropout."""
    layers = nnx.Linear(64, 32, rngs=rngs), nnx.relu, nnx.Dropout(0.1)
    return nnx.Sequential(*layers, nnx.Linear(32, 10, rngs=rngs))


GRAPH, _ = nnx.split(nnx.eval_shape(lambda: model(nnx.Rngs(0))))


def init(key):
    """Its parameters, a pytree of arrays."""
    return nnx.to_pure_dict(nnx.state(model(nnx.Rngs(key))))


def loss(params, batch, key):
    """Cross-entropy, and how many are right."""
    x, y = batch
    logits = nnx.merge(GRAPH, params)(x, rngs=nnx.Rngs(key))
    value = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return value, {"accuracy": (logits.argmax(axis=1) == y).mean()}


def task() -> lopt.Task:
    """What a suite calls."""
    digits = load_digits()
    data = digits.data / 16, digits.target
    return lopt.task_from(name="my-nnx", init=init, loss=loss, data=data)
