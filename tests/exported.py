"""A small learned optimizer, its file, and a plain training loop that uses one."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from trees import perturbed_theta

from lopt.checkpoint import Checkpoint
from lopt.files.fileformat import Header
from lopt.optimizers import OPTIMIZERS
from lopt.options import resolved

CARD = {"suite": "digits", "outer_steps": 3, "seed": 0}


def made(name, path="memory", **options):
    """A checkpoint of a released optimizer with a theta that is nowhere zero."""
    lopt = OPTIMIZERS[name](**options)
    theta = perturbed_theta(lopt, jax.random.key(2))
    header = Header(
        optimizer=name, options=resolved(OPTIMIZERS[name], options), card=CARD
    )
    return Checkpoint(path=Path(path), lopt=lopt, theta=theta, header=header)


PARAMS = {
    "a": {"kernel": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "bias": jnp.zeros(4)},
    "b": [jnp.float32(0.5)],
}


def loss_fn(params):
    hidden = jnp.tanh(
        jnp.ones((2, 3)) @ params["a"]["kernel"] + params["a"]["bias"][None]
    )
    return jnp.mean(jnp.square(hidden - 0.3)) + jnp.square(params["b"][0] - 2.0)


def train(optimizer, num_steps, params=PARAMS):
    """Parameters after a plain optax loop, and how often it was traced."""
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(1)
        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    state = jax.jit(optimizer.init)(params)
    for _ in range(num_steps):
        params, state = step(params, state)
    return params, len(traces)


def assert_same_bits(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
