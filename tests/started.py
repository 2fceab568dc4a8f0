"""A small task of a user's, and what it may start from."""

import jax
import numpy as np
from family_tools import quick
from suite_files import build

from lopt.finetuning.start import names

PYTHON = """
import jax, jax.numpy as jnp, numpy as np
from lopt import task_from

DATA = np.random.RandomState(0).randn(64, 3).astype(np.float32)

def init(key):
    head = jax.random.normal(key, (2,)) / 4
    body = {"w": jax.random.normal(key, (3, 2)), "b": jnp.zeros(2)}
    return {"body": body, "head": head}, {"mean": jnp.zeros(2)}

def loss(params, state, batch, key):
    h = batch @ params["body"]["w"] + params["body"]["b"][None]
    mean = 0.9 * state["mean"] + 0.1 * h.mean(0)
    error = jnp.tanh(h - mean[None]) @ params["head"] - batch[:, 0]
    return jnp.mean(error**2), ({"mean": mean}, {})

def task(*, shift=0.0):
    data = DATA + np.float32(shift)
    return task_from(name="toy", init=init, loss=loss, data=data, has_state=True,
                     batch_size=4, loss_bound=8.0)
"""
TENSORS = {
    "body/w": np.arange(6, dtype=np.float32).reshape(3, 2) / 6,
    "body/b": np.asarray([0.5, -0.5], np.float32),
    "head": np.asarray([1.0, 2.0], np.float32),
    "model_state/mean": np.asarray([0.25, 0.75], np.float32),
}
FILE = 'file = "file.py"\nstart.file = "start.safetensors"\n'
PRETRAIN = 'file = "file.py"\nstart.pretrain = { steps = 20, learning_rate = 0.03 }\n'
FROZEN = 'start.frozen = ["body/b"]\n'


def made(tmp_path, entry):
    """The tasks of a suite of these entries."""
    return [built.task for built in build(tmp_path, entry, PYTHON)]


def begun(task, seed=0):
    """Parameters and model state, by name."""
    params, state = quick(task.init)(jax.random.key(seed), task.data)
    return {name: np.asarray(x) for name, x in names((params, state)).items()}


def loss_of(task, params, state):
    key = jax.random.key(3)
    return quick(task.loss)(params, state, task.eval_batch(task.data, "test"), key)
