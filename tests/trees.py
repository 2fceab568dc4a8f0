"""Parameters of every kind of shape, and optimizers run on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

TREES = {
    "scalar": {"s": ()},
    "vectors": {"a": (5,), "b": (1,)},
    "matrices": {"tall": (6, 3), "wide": (2, 7), "square": (4, 4), "other": (4, 4)},
    "convolution": {"kernel": (3, 3, 2, 5), "bias": (5,)},
    "zero-size": {"none": (0, 3), "w": (2, 2)},
}
MIXED = {name: shape for tree in TREES.values() for name, shape in tree.items()}


def perturbed_theta(lopt, key):
    theta = jax.jit(lopt.init)(key)
    noise = numpy_draws(key)
    return jax.tree.map(lambda x: x + jnp.float32(0.1) * noise(x.shape), theta)


def random_tree(shapes, key, dtype=jnp.float32):
    draws = numpy_draws(key)
    return {name: jnp.asarray(draws(shapes[name]), dtype) for name in sorted(shapes)}


def numpy_draws(key):
    """Normal draws of any shape, for which nothing is compiled."""
    with jax.ensure_compile_time_eval():
        seed = np.asarray(jax.random.key_data(key))
    rng = np.random.default_rng([*seed.tolist(), LIVELY])
    return lambda shape: np.asarray(rng.standard_normal(shape), np.float32)


LIVELY = 10
"""With it, the relus of no architecture are dead for the keys that tests use."""


def run(optimizer, params, key, num_steps=3, jit=True):
    """Parameters after some steps with random gradients."""

    def step(grads, state, params, loss):
        updates, state = optimizer.update(grads, state, params, value=loss)
        return optax.apply_updates(params, updates), state

    init, step = map(jax.jit, (optimizer.init, step)) if jit else (optimizer.init, step)
    state = init(params)
    shapes = {name: p.shape for name, p in params.items()}
    dtypes = {p.dtype for p in params.values()}
    for i in range(num_steps):
        with jax.ensure_compile_time_eval():
            grads = random_tree(shapes, jax.random.fold_in(key, i), *dtypes)
        params, state = step(grads, state, params, jnp.float32(1.0 + i))
    return params
