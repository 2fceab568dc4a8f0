"""Parameters of every kind of shape, and optimizers run on them."""

import jax
import jax.numpy as jnp
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
    theta = lopt.init(key)
    leaves, treedef = jax.tree.flatten(theta)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, noisy)


def random_tree(shapes, key, dtype=jnp.float32):
    keys = jax.random.split(key, max(len(shapes), 1))
    return {
        name: jax.random.normal(k, shape).astype(dtype)
        for (name, shape), k in zip(sorted(shapes.items()), keys, strict=False)
    }


def run(optimizer, params, key, num_steps=3, jit=True):
    """Parameters after some steps with random gradients."""
    state = optimizer.init(params)
    update = jax.jit(optimizer.update) if jit else optimizer.update
    for i in range(num_steps):
        shapes = {name: p.shape for name, p in params.items()}
        grads = random_tree(shapes, jax.random.fold_in(key, i))
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
        updates, state = update(grads, state, params, value=jnp.float32(1.0 + i))
        params = optax.apply_updates(params, updates)
    return params
