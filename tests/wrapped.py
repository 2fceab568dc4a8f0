"""Loaded optimizers, a small network of two shapes of tensors, and a training loop."""

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
    small = {"hidden_sizes": (4,)}
    for name in NAMES[1:]:
        save_file(made(name, **small), folder / f"{name}.safetensors")
    paths = {name: folder / f"{name}.safetensors" for name in NAMES[1:]}
    return {"layerwise": released("checkpoints", "layerwise"), **paths}


def loaded(paths, name, specs=None):
    return lopt.load(paths[name], num_steps=NUM_STEPS, specs=specs)


_w1, _w2, _x = (jax.random.normal(jax.random.key(i), (8, 8)) for i in range(3))
PARAMS = {
    "in": {"w": 0.3 * _w1, "b": jnp.full(8, 0.1)},
    "out": {"w": 0.3 * _w2[:, :4], "b": jnp.full(4, -0.1)},
}
SPECS = lopt.param_specs(PARAMS, roles={"in/w": "input", "out/w": "output"})


def loss_fn(params, x=_x):
    hidden = jnp.tanh(x @ params["in"]["w"] + params["in"]["b"][None])
    out = hidden @ params["out"]["w"] + params["out"]["b"][None]
    return jnp.mean(jnp.square(out - jnp.sin(x[:, :4])))


def train(optimizer, num_steps, params=PARAMS, state=None):
    """The parameters after some steps, and the losses."""

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state, params, value=loss)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for _ in range(num_steps):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    return params, losses


def assert_close(one, two, rtol=2e-5):
    """Equal but for how sums are rounded."""
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)
