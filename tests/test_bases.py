"""Every base against optax or a reference of its own, by itself and from a momentum."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import _muon

from lopt import mup
from lopt.bases import BASES, DAMPING, orthogonalize, shampoo, times_inverse_root
from lopt.packing import packing

STEPS = 4
SHAPES = {"w": (6, 4), "v": (4, 7), "b": (4,)}
REFERENCES = {
    "sgd": lambda: optax.ema(0.9, debias=False),
    "adam": optax.scale_by_adam,
    "adabelief": lambda: optax.scale_by_belief(eps=1e-8, eps_root=0.0),
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
    state, found = base.start(pack.pack(params), pack), []
    for i in range(STEPS):
        g = pack.pack(tree(jax.random.fold_in(key, i)))
        d, state = base.follow(g, state, jnp.asarray(i), pack)
        found.append(pack.unpack(d, params))
    return found


def after_one_gradient(base, u, grads, pack, *, step):
    """The direction of u where nothing came before the gradients."""
    state = base.update(u, grads, base.init(u, pack), jnp.asarray(step), pack)
    return base.direction(u, state, jnp.asarray(step), pack)


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


def damped_root(a):
    """(A + 1e-4 tr(A) I)^(−1/4) by eigenvalues."""
    values, vectors = np.linalg.eigh(a)
    return (vectors * (values + DAMPING * np.trace(a)) ** -0.25) @ vectors.T


def shampoos(gradients, decay=0.9, b2=0.99):
    """What the rule does by itself at the last of the gradients [m, n], in float64."""
    u, left, right = 0.0, 0.0, 0.0
    for g in gradients:
        u = decay * u + (1 - decay) * g
        left, right = b2 * left + (1 - b2) * g @ g.T, b2 * right + (1 - b2) * g.T @ g
    debias = 1 - b2 ** len(gradients)
    u /= 1 - decay ** len(gradients)
    d = damped_root(left / debias) @ u @ damped_root(right / debias)
    return d * max(d.shape) ** 0.5


def test_shampoo_equals_its_formula(key):
    """Within what the polynomials leave of each root; zeros for vectors."""
    gradients = [tree(jax.random.fold_in(key, i)) for i in range(STEPS)]
    for i, found in enumerate(directions(BASES["shampoo"](), key)):
        for leaf in "wv":
            past = [np.asarray(g[leaf], np.float64) for g in gradients[: i + 1]]
            expected = shampoos(past)
            error = np.linalg.norm(found[leaf] - expected)
            assert error < 0.1 * np.linalg.norm(expected)
        assert not np.any(found["b"])


@pytest.mark.parametrize("rank", [0, 1, 40])
@pytest.mark.parametrize("shape", [(64, 32), (32, 10), (4, 4, 8, 16)])
def test_shampoo_of_one_gradient_is_orthogonal(shape, rank, key):
    """√max(m, n) U Vᵀ, whatever the scale and the rank; zeros for a gradient of zeros."""
    pack = packing(mup.infer_specs({"w": jnp.zeros(shape)}))
    m, n = int(np.prod(shape[:-1])), shape[-1]
    keys, base = jax.random.split(key), shampoo()
    g = jax.random.normal(keys[0], (m, rank)) @ jax.random.normal(keys[1], (rank, n))
    for scale in (1e-12, 1.0, 1e12):
        grads = (scale * g.reshape(1, *shape),)
        (d,) = after_one_gradient(base, grads, grads, pack, step=0)
        values = np.linalg.svd(np.asarray(d.reshape(m, n)), compute_uv=False)
        values /= max(m, n) ** 0.5
        kept, lost = np.split(values, [min(rank, m, n)])
        assert np.all(kept > 0.8) and np.all(kept < 1.12) and np.all(lost < 0.02)


def test_the_inverse_root_holds_wherever_it_is_damped():
    """Every eigenvalue from 0 to the trace, to 5.4 %; zero of zero is zero."""
    values = np.concatenate([[0.0], np.geomspace(1e-6, 1.0, 800)])
    values = np.stack([values, 1.0 - values], axis=1)
    squares = 4.0 * values[:, :, None] * np.eye(2)
    eye = jnp.broadcast_to(jnp.eye(2), squares.shape)
    found = times_inverse_root(jnp.asarray(squares, jnp.float32), eye)
    expected = (4.0 * (values + DAMPING)) ** -0.25
    np.testing.assert_allclose(jax.vmap(jnp.diagonal)(found), expected, rtol=0.054)
    assert not np.any(times_inverse_root(jnp.zeros((3, 3)), jnp.zeros((3, 2))))


def test_shampoo_leaves_what_is_too_large(key):
    """Its squares would not fit: such a tensor has no direction and no state."""
    params = tree(key)
    base, pack = shampoo(largest=6), packing(mup.infer_specs(params))
    assert [base.applies(spec) for spec in pack.specs] == [False, False, True]
    u = pack.pack(params)
    d = after_one_gradient(base, u, u, pack, step=0)
    state = base.update(u, u, base.init(u, pack), jnp.asarray(0), pack)
    assert [bool(np.any(x)) for x in d] == [False, False, True]
    assert jax.tree.map(jnp.shape, state) == ((), (), ((1, 6, 6), (1, 4, 4)))


@pytest.mark.parametrize("name", BASES)
def test_direction_is_of_the_momentum_that_is_given(name, key):
    """From no u nowhere, and back with both signs: the gradients say not where to go."""
    base, params = BASES[name](), tree(key)
    pack = packing(mup.infer_specs(params))
    u, g = pack.pack(params), pack.pack(tree(jax.random.fold_in(key, 1)))

    def direction(c_u, c_g):
        us, gs = (jax.tree.map(lambda x, c=c: c * x, t) for c, t in [(c_u, u), (c_g, g)])
        return after_one_gradient(base, us, gs, pack, step=0)

    forth, back, nowhere = direction(1, 1), direction(-1, -1), direction(0, 1)
    for a, b, zero in zip(forth, back, nowhere, strict=True):
        np.testing.assert_allclose(a, -b, rtol=1e-5, atol=1e-6)
        assert not np.any(zero)
    assert any(np.any(d) for d in forth)


def test_belief_is_in_what_was_foreseen(key):
    """A gradient that is the momentum's moves further than one that is its opposite."""
    base, u = BASES["adabelief"](), (jax.random.normal(key, (1, 4)),)
    pack = packing(mup.infer_specs({"b": u[0][0]}))
    (near,) = after_one_gradient(base, u, u, pack, step=30)
    (far,) = after_one_gradient(base, u, (-u[0],), pack, step=30)
    bias = 1 - 0.9**31
    np.testing.assert_allclose(near / far, (1 + bias) / (1 - bias), rtol=1e-3)


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (5, 5), (2, 4, 3)])
def test_orthogonalize_has_unit_singular_values(shape, key):
    x = orthogonalize(jax.random.normal(key, shape))
    values = np.linalg.svd(np.asarray(x), compute_uv=False)
    assert np.all(values > 0.6) and np.all(values < 1.3)
