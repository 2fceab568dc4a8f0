"""What is written for how it is compiled is still the plain mathematics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.numerics import FEW_OUTPUTS, product, root


def plain(w, x):
    return w.T @ x


def gradients(function):
    def loss(w, x):
        return jnp.sum(jnp.sin(function(w, x)))

    return jax.vmap(jax.grad(loss, argnums=(0, 1)))


def reverse_over_reverse(function):
    def loss(w, x):
        return sum(jnp.sum(jnp.cos(g)) for g in gradients(function)(w, x))

    return jax.grad(loss, argnums=(0, 1))


def forward_over_reverse(function):
    return lambda w, x: jax.jvp(gradients(function), (w, x), (jnp.cos(w), jnp.sin(x)))


@pytest.mark.parametrize(
    "derivative", [jax.vmap, gradients, reverse_over_reverse, forward_over_reverse]
)
@pytest.mark.parametrize("num_outputs", [1, FEW_OUTPUTS, FEW_OUTPUTS + 1])
def test_product(key, derivative, num_outputs):
    keys = jax.random.split(key)
    w = jax.random.normal(keys[0], (3, 4, num_outputs))
    x = jax.random.normal(keys[1], (3, 4, 7))
    found, expected = (jax.jit(derivative(f))(w, x) for f in (product, plain))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        found,
        expected,
    )


def test_root_has_a_derivative_everywhere():
    x = jnp.asarray([0.0, 1e-30, 0.25])
    np.testing.assert_array_equal(root(x)[1:], jnp.sqrt(x)[1:])
    assert 0 <= root(x)[0] < 1e-18
    slope = jax.vmap(jax.grad(lambda x: root(x * x)))(jnp.asarray([0.0, -2.0]))
    np.testing.assert_array_equal(slope, [0.0, -1.0])
