"""Products with layouts of their own are the plain ones, and so are their derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt import products

PLAIN = {
    products.of_examples: lambda w, x: (x @ w).T,
    products.of_features: lambda w, h: w.T @ h,
}


@pytest.fixture(params=PLAIN, ids=["examples", "features"])
def pair(request):
    """A product, the plain one, and arguments for three particles."""
    keys = jax.random.split(jax.random.key(0))
    w = jax.random.normal(keys[0], (3, 4, 5))
    shape = (3, 7, 4) if request.param is products.of_examples else (3, 4, 7)
    return request.param, PLAIN[request.param], (w, jax.random.normal(keys[1], shape))


def assert_same(one, two):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), one, two)


def test_they_are_the_plain_products(pair):
    product, plain, arguments = pair
    assert_same(jax.vmap(product)(*arguments), jax.vmap(plain)(*arguments))


def test_so_are_their_gradients_and_the_derivatives_of_these(pair):
    product, plain, arguments = pair

    def gradients(function):
        def loss(w, x):
            return jnp.sum(jnp.sin(function(w, x)))

        return jax.vmap(jax.grad(loss, argnums=(0, 1)))

    def twice(function):
        def loss(w, x):
            return sum(jnp.sum(jnp.cos(g)) for g in gradients(function)(w, x))

        return jax.grad(loss, argnums=(0, 1))

    def forward(function):
        return lambda w, x: jax.jvp(gradients(function), (w, x), (x[:, :1, :1] * w, x))

    for derivative in (gradients, twice, forward):
        assert_same(*(jax.jit(derivative(f))(*arguments) for f in (product, plain)))
