"""A learned optimizer of one's own.

    lopt meta-train quick --optimizer tasks/my_optimizer.py:tiny --out runs/tiny
    lopt export runs/tiny -o tiny.safetensors --trust

`lopt.load("tiny.safetensors", trust=True)` wants this file where it was or beside that.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import lopt


class TinyState(NamedTuple):
    """Running means of every tensor, [*s] each."""

    mean: Any  # of the gradient
    square: Any  # of its square


def tiny(*, hidden_size: int = 4, learning_rate: float = 0.01) -> lopt.LearnedOptimizer:
    """A network of three inputs that says how far to move each element of a tensor.

    p ← p - η (m + w₁ᵀ tanh(W₀ x)), where x = (m, g, p) are the running mean of the
    gradient and the gradient, both over the root of the running mean square, and the
    value. w₁ starts at zero, so that meta-training starts from RMSProp with momentum.
    """

    def init(key):
        w0 = jax.random.normal(key, (hidden_size, 3)) / 3**0.5
        return {"w0": w0, "w1": jnp.zeros(hidden_size)}

    def opt_fn(theta, *, specs=None, num_steps=None):
        del specs, num_steps  # where each tensor is, and the length of the run

        def start(params):
            zeros = jax.tree.map(jnp.zeros_like, params)
            return TinyState(zeros, zeros)

        def change(p, g, mean, square):
            scale = jax.lax.rsqrt(square + 1e-8)
            x = jnp.stack([mean * scale, g * scale, p])
            hidden = jnp.tanh(jnp.tensordot(theta["w0"], x, axes=1))
            return -learning_rate * (x[0] + jnp.tensordot(theta["w1"], hidden, axes=1))

        def update(grads, state, params=None, **extra):  # the loss is extra["value"]
            mean = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.mean, grads)
            square = jax.tree.map(lambda v, g: 0.9 * v + 0.1 * g * g, state.square, grads)
            updates = jax.tree.map(change, params, grads, mean, square)
            return updates, TinyState(mean, square)

        return optax.GradientTransformationExtraArgs(start, update)

    return lopt.LearnedOptimizer(init, opt_fn)
