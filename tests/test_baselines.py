"""Baselines against optax, the schedules against hand-worked values."""

import inspect
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt import mup
from lopt.errors import ConfigError
from lopt.evaluation.baselines import (
    BASELINES,
    DEFAULT_BASELINES,
    baseline,
)
from lopt.optimizers.hand_designed import warmup_cosine
from lopt.optimizers.layerwise import layerwise

names = pytest.mark.parametrize("name", BASELINES)

NUM_STEPS = 20  # a warm-up of one step


def theta(learning_rate=0.1, weight_decay=0.0, constant=1.0):
    return {
        "learning_rate": jnp.asarray(learning_rate),
        "weight_decay": jnp.asarray(weight_decay),
        "constant": jnp.asarray(constant),
    }


def params(dtype=jnp.float32):
    keys = iter(jax.random.split(jax.random.key(1), 5))
    shapes = {"w": (6, 4), "v": (6, 4), "kernel": (3, 3, 2, 4), "b": (4,), "s": ()}
    return {k: jax.random.normal(next(keys), s, dtype) for k, s in shapes.items()}


def gradients(seed, like):
    keys = jax.random.split(jax.random.key(100 + seed), len(like))
    return {
        name: jax.random.normal(key, x.shape, x.dtype)
        for key, (name, x) in zip(keys, like.items(), strict=True)
    }


def follow(optimizer, steps=4):
    """Parameters after some steps on given gradients."""
    p = params()
    state = optimizer.init(p)
    for i in range(steps):
        updates, state = optimizer.update(gradients(i, p), state, p)
        p = optax.apply_updates(p, updates)
    return p


def masked_decay(decay):
    matrices = {"w": True, "v": True, "kernel": True, "b": False, "s": False}
    return optax.add_decayed_weights(decay, mask=matrices)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", lambda: optax.ema(0.9, debias=False)),
        ("adam", optax.scale_by_adam),
        ("adamw", optax.scale_by_adam),
        ("lion", optax.scale_by_lion),
    ],
)
def test_equals_optax(name, reference):
    optimizer = BASELINES[name].lopt.opt_fn(theta(0.05, 0.3), num_steps=NUM_STEPS)
    expected = optax.chain(
        reference(), masked_decay(0.3), optax.scale_by_learning_rate(0.05)
    )
    a, b = follow(optimizer), follow(expected)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5), a, b)


def test_muon_orthogonalizes_matrices_and_leaves_vectors_to_adam():
    p = params()
    optimizer = BASELINES["muon"].lopt.opt_fn(theta(1.0), num_steps=NUM_STEPS)
    g = gradients(0, p)
    updates, _ = optimizer.update(g, optimizer.init(p), p)
    singular = np.linalg.svd(np.asarray(updates["w"]), compute_uv=False)
    # Muon's coefficients leave singular values in about [.7, 1.2], here times 0.2 √6.
    assert ((singular / (0.2 * 6**0.5) > 0.6) & (singular < 0.2 * 6**0.5 * 1.3)).all()
    # The polar factor of the gradient has the same singular vectors.
    u, _, vt = np.linalg.svd(np.asarray(g["w"]), full_matrices=False)
    assert np.trace(-np.asarray(updates["w"]).T @ (u @ vt)) > 0.95 * singular.sum()
    adam = optax.scale_by_adam()
    expected, _ = adam.update(g, adam.init(p))
    np.testing.assert_allclose(updates["b"], -expected["b"], rtol=1e-5)


def test_static_is_the_prior_of_layerwise():
    """With its rate and decay changed, and each of them is what its name says."""
    prior = layerwise(learning_rate=0.02, weight_decay=3.0)
    static = BASELINES["static"].lopt.opt_fn(theta(0.02, 3.0), num_steps=50)
    optimizer = prior.opt_fn(prior.init(jax.random.key(0)), num_steps=50)
    p = params()
    states = static.init(p), optimizer.init(p)
    for i in range(5):
        g, value = gradients(i, p), jnp.asarray(1.0)
        a, first = static.update(g, states[0], p, value=value)
        b, second = optimizer.update(g, states[1], p, value=value)
        states = first, second
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4), a, b)
    space, options = BASELINES["static"].space, inspect.signature(layerwise).parameters
    center = space.values(space.center)
    assert center.learning_rate == options["learning_rate"].default
    assert center.weight_decay == options["weight_decay"].default


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.2), (3, 0.8), (4, 1.0), (5, 1.0), (52.5, 0.5), (100, 0.0), (120, 0.0)],
)
def test_warmup_and_cosine(step, expected):
    rate = warmup_cosine(theta(2.0, constant=0.0), jnp.asarray(step), jnp.asarray(100.0))
    np.testing.assert_allclose(rate, 2.0 * expected, atol=1e-6)
    flat = warmup_cosine(theta(2.0, constant=1.0), jnp.asarray(step), jnp.asarray(100.0))
    np.testing.assert_allclose(flat, 2.0 * min((step + 1) / 5, 1.0), rtol=1e-6)


def test_a_run_of_one_step_takes_it():
    rate = warmup_cosine(theta(2.0, constant=0.0), jnp.asarray(0), jnp.asarray(1.0))
    np.testing.assert_allclose(rate, 2.0)


@pytest.mark.parametrize(
    ("name", "role", "ratio"),
    [
        ("adamw", "hidden", 1 / 4),
        ("lion", "hidden", 1 / 4),
        ("sgd", "hidden", 1.0),
        ("muon", "hidden", 1 / 2),
        ("static", "hidden", 1 / 2),
        ("adamw", "bias", 1.0),
    ],
)
def test_width_multipliers(name, role, ratio):
    """A tensor four times wider in both directions than the base's."""
    matrix = role == "hidden"
    p = {"w": jax.random.normal(jax.random.key(0), (8, 8) if matrix else (8,))}
    plain = mup.infer_specs(p)
    width_in = 4.0 if matrix else 1.0
    wide = {"w": replace(plain["w"], role=role, width_in=width_in, width_out=4.0)}
    g = jax.tree.map(lambda x: x**2, p)

    def first_update(specs):
        optimizer = BASELINES[name].lopt.opt_fn(theta(), specs=specs, num_steps=20)
        return optimizer.update(g, optimizer.init(p), p, value=1.0)[0]["w"]

    # `static` has 2 % of Adam in its prior, whose multiplier is another.
    atol = 1e-3 if name == "static" else 0.0
    expected = ratio * first_update(plain)
    np.testing.assert_allclose(first_update(wide), expected, rtol=1e-5, atol=atol)


@names
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_contract(name, dtype):
    p = params(dtype)
    optimizer = BASELINES[name].lopt.opt_fn(theta(0.01, 0.1), num_steps=NUM_STEPS)
    state = optimizer.init(p)
    traces = []

    @jax.jit
    def update(g, state, p):
        traces.append(None)
        return optimizer.update(g, state, p, value=jnp.asarray(1.0), unheard_of=3)

    for i in range(3):
        updates, state = update(gradients(i, p), state, p)
        p = optax.apply_updates(p, updates)
    assert len(traces) == 1
    assert jax.tree.map(lambda x: (x.shape, x.dtype), updates) == jax.tree.map(
        lambda x: (x.shape, x.dtype), p
    )
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(p))
    assert optimizer.update({}, optimizer.init({}), {}, value=1.0)[0] == {}


@names
def test_needs_the_length_of_the_run(name):
    with pytest.raises(TypeError, match="num_steps"):
        BASELINES[name].lopt.opt_fn(theta())


def test_names():
    assert set(DEFAULT_BASELINES) < set(BASELINES)
    assert all(not BASELINES[name].control for name in DEFAULT_BASELINES)
    assert baseline("muon") is BASELINES["muon"]
    with pytest.raises(ConfigError, match="unknown baseline `moun`") as caught:
        baseline("moun")
    assert "muon" in caught.value.hint
