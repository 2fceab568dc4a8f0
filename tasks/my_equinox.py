"""An Equinox model as a task: `lopt meta-train tasks/my_equinox.py`."""

from functools import partial

import equinox as eqx
import jax
from sklearn.datasets import load_diabetes

import lopt

MODEL = eqx.nn.MLP(10, 1, width_size=32, depth=2, key=jax.random.key(0))
STATIC = eqx.filter(MODEL, eqx.is_array, inverse=True)


def init(key):
    """Its arrays; what else there is to it is STATIC."""
    model = eqx.nn.MLP(10, 1, width_size=32, depth=2, key=key)
    return eqx.filter(model, eqx.is_array)


def loss(params, batch, key):
    """Mean squared error; a guess at the mean has 1."""
    x, y = batch
    error = jax.vmap(eqx.combine(params, STATIC))(x)[:, 0] - y
    return (error**2).mean()


def task() -> lopt.Task:
    """What a suite calls. Equinox has outputs first in its kernels."""
    x, y = load_diabetes(return_X_y=True, scaled=False)
    data = (x - x.mean(axis=0)) / x.std(axis=0), (y - y.mean()) / y.std()
    specs = partial(lopt.param_specs, output_axis=0)
    return lopt.task_from(name="my-equinox", init=init, loss=loss, data=data, specs=specs)
