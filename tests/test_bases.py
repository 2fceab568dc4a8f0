"""Every base against optax or a reference of its own, by itself and from a momentum."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import _muon

from lopt import mup
from lopt.bases import BASES, orthogonalize
from lopt.packing import packing

STEPS = 4
SHAPES = {"w": (6, 4), "v": (4, 7), "b": (4,)}
REFERENCES = {
    "sgd": lambda: optax.ema(0.9, debias=False),
    "adam": optax.scale_by_adam,
    "lion": optax.scale_by_lion,
}


def tree(key):
    keys = jax.random.split(key, len(SHAPES))
    return {
        name: jax.random.normal(k, shape)
        for k, (name, shape) in zip(keys, SHAPES.items(), strict=True)
    }


def directions(base, key):
    """What the base does by itself at every step, as trees."""
    params = tree(key)
    pack = packing(mup.infer_specs(params))
    state, found = base.start(pack.pack(params)), []
    for i in range(STEPS):
        g = pack.pack(tree(jax.random.fold_in(key, i)))
        d, state = base.follow(g, state, jnp.asarray(i), pack)
        found.append(pack.unpack(d, params))
    return found


@pytest.mark.parametrize("name", REFERENCES)
def test_by_itself_it_equals_optax(name, key):
    reference = REFERENCES[name]()
    state = reference.init(tree(key))
    for i, found in enumerate(directions(BASES[name](), key)):
        expected, state = reference.update(tree(jax.random.fold_in(key, i)), state)
        for leaf in SHAPES:
            np.testing.assert_allclose(found[leaf], expected[leaf], rtol=1e-5, atol=1e-6)


def test_muon_orthogonalizes_nesterovs_momentum(key):
    """Against optax's own iteration; the analytic √max(m, n), zeros for vectors."""
    trace = optax.trace(0.95, nesterov=True)
    state = trace.init(tree(key))
    coefficients = jnp.asarray([3.4445, -4.7750, 2.0315])
    for i, found in enumerate(directions(BASES["muon"](), key)):
        u, state = trace.update(tree(jax.random.fold_in(key, i)), state)
        for leaf, largest in {"w": 6, "v": 7}.items():
            expected = _muon.orthogonalize_via_newton_schulz(u[leaf], coefficients)
            expected *= largest**0.5
            np.testing.assert_allclose(found[leaf], expected, rtol=1e-3, atol=1e-4)
        assert not np.any(found["b"])


@pytest.mark.parametrize("name", BASES)
def test_direction_is_of_the_momentum_that_is_given(name, key):
    """−u gives −d, whatever the gradients: nothing but u says where to go."""
    base, params = BASES[name](), tree(key)
    pack = packing(mup.infer_specs(params))
    u, g = pack.pack(params), pack.pack(tree(jax.random.fold_in(key, 1)))
    start, step = base.init(u), jnp.asarray(0)
    forth, _ = base.direction(u, g, start, step, pack)
    back, _ = base.direction(jax.tree.map(jnp.negative, u), g, start, step, pack)
    for a, b in zip(forth, back, strict=True):
        np.testing.assert_allclose(a, -b, rtol=1e-5, atol=1e-6)
    assert any(np.any(d) for d in forth)


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (5, 5), (2, 4, 3)])
def test_orthogonalize_has_unit_singular_values(shape, key):
    x = orthogonalize(jax.random.normal(key, shape))
    values = np.linalg.svd(np.asarray(x), compute_uv=False)
    assert np.all(values > 0.6) and np.all(values < 1.3)
