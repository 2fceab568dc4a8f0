"""Loaded optimizers, a small network, and a training loop that is compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from exported import made

import lopt
from lopt.checkpoint import save_file
from lopt.config import released

NUM_STEPS = 20
NAMES = ("layerwise", "adafac_mlp", "celo2")


def files(tmp_path_factory):
    """A file of each: the released `layerwise`, and others with random weights."""
    folder = tmp_path_factory.mktemp("files")
    paths = {name: folder / f"{name}.safetensors" for name in NAMES[1:]}
    for name, path in paths.items():
        save_file(made(name, hidden_sizes=(2,)), path)
    return {"layerwise": released("checkpoints", "layerwise"), **paths}


def loaded(paths, name, specs=None):
    return lopt.load(paths[name], num_steps=NUM_STEPS, specs=specs)


_w1, _w2, x_16x8 = (np.random.default_rng(i).normal(size=(16, 8)) for i in range(3))
PARAMS = {
    "in": {"w": 0.3 * jnp.float32(_w1[:8]), "b": jnp.full(8, 0.1)},
    "out": {"w": 0.3 * jnp.float32(_w2[:8, :4])},
}
BASE = {"in": {"w": np.ones((8, 2)), "b": np.ones(2)}, "out": {"w": np.ones((2, 4))}}
SPECS = lopt.param_specs(PARAMS, base_params=BASE)
IS_MATRIX = {"in": {"w": True, "b": False}, "out": {"w": True}}


def loss_fn(params):
    x = jnp.float32(x_16x8)
    hidden = jnp.tanh(x @ params["in"]["w"] + params["in"]["b"][None])
    return jnp.mean(jnp.square(hidden @ params["out"]["w"] - jnp.sin(x[:, :4])))


def stepper(optimizer, loss_fn=loss_fn):
    """A compiled training step."""

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state, params, value=loss)
        return optax.apply_updates(params, updates), state, loss

    return step


def train(optimizer, num_steps, params=PARAMS, loss_fn=loss_fn):
    """The parameters after some steps, the optimizer's state, and the losses."""
    step, state, losses = stepper(optimizer, loss_fn), optimizer.init(params), []
    for _ in range(num_steps):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    return params, state, losses


def assert_close(one, two, rtol=2e-5):
    """Equal but for how sums are rounded."""
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)
