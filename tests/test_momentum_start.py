"""`start = "momentum"`: theta whose direction is the normalized momentum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.errors import ConfigError
from lopt.optimizers import OPTIMIZERS, network

STEP = 0.03
SMALL = {
    "adafac_mlp": {"step_mult": STEP},
    "mup_adafac": {"step_mult": STEP},
    "mlp": {"step_mult": STEP, "hidden_sizes": (4, 4)},
    "rnn_mlp": {"step_mult": STEP, "hidden_sizes": (4, 4), "hidden_size": 4},
    "celo2": {"learning_rate": STEP, "orthogonalize": False, "vectors": "learned"},
    "celo": {"step_mult": STEP, "hidden_size": 4, "num_networks": 1},
    "velo": {"step_mult": STEP, "hidden_size": 4, "num_networks": 3},
}
RMS_DECAY = {"mlp": None, "celo2": 0.95, "rnn_mlp": 0.9}
"""Of the second moment that divides the momentum; 0.999 in the others."""
RELATIVE = ("celo", "velo")
NUM_STEPS = 5


def run(name: str):
    """The last of a few updates, and what it should be made of."""
    lopt = OPTIMIZERS[name](start="momentum", **SMALL[name])
    keys = iter(jax.random.split(jax.random.key(3), 20))
    params = {"w": jax.random.normal(next(keys), (6, 5)), "b": 0.1 * jnp.ones(7)}
    optimizer = lopt.opt_fn(lopt.init(next(keys)), num_steps=50)
    update, state = jax.jit(optimizer.update), optimizer.init(params)
    beta2 = RMS_DECAY.get(name, 0.999)
    m = r = jax.tree.map(jnp.zeros_like, params)
    for _ in range(NUM_STEPS):
        g = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), params)
        updates, state = update(g, state, params, value=jnp.float32(1.0))
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        if beta2 is not None:
            r = jax.tree.map(lambda r, g: beta2 * r + (1 - beta2) * g * g, r, g)
    root = jax.tree.map(lambda r: jnp.sqrt(r + 1e-6) if beta2 else jnp.ones_like(r), r)
    direction = jax.tree.map(lambda m, d: m / d, m, root)
    sizes = jax.tree.map(lambda p: _rms(p) if name in RELATIVE else 1.0, params)
    expected = jax.tree.map(lambda x, s: -STEP * s * x / _rms(x), direction, sizes)
    return updates, expected


def _rms(x):
    return jnp.sqrt(jnp.mean(x * x))


@pytest.mark.parametrize("name", SMALL)
def test_the_update_is_the_normalized_momentum(name, monkeypatch):
    """But for the random rest, which is silenced here."""
    monkeypatch.setattr(network, "QUIET", 0.0)
    updates, expected = run(name)
    for key, ours in updates.items():
        theirs, ours = np.asarray(expected[key]), np.asarray(ours)
        if name == "velo":  # its LSTM mixes a sum of about 1
            assert 0.5 < _rms(ours) / _rms(theirs) < 2
            ours = ours * _rms(theirs) / _rms(ours)
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_the_rest_is_quiet(name):
    updates, expected = run(name)
    for key, ours in updates.items():
        theirs = np.asarray(expected[key])
        cosine = np.sum(ours * theirs) / np.linalg.norm(ours) / np.linalg.norm(theirs)
        assert 0.7 < cosine < 0.99999


def test_an_lstm_of_hyperparameters_has_no_such_start():
    with pytest.raises(TypeError, match="start"):
        OPTIMIZERS["nn_adam"](start="momentum")


@pytest.mark.parametrize("name", SMALL)
def test_what_makes_no_sense_is_refused(name, unchecked_types):
    with pytest.raises(ConfigError, match="`start` must be `random` or `momentum`"):
        OPTIMIZERS[name](start="adam")
    one_unit = OPTIMIZERS[name](start="momentum", hidden_sizes=(4, 1))
    with pytest.raises(ConfigError, match=r"`hidden_sizes`.*momentum"):
        one_unit.init(jax.random.key(0))


def test_a_network_without_hidden_layers_passes_too():
    theta = network.init_network(jax.random.key(0), (3, 2), passed=1)
    rest = network.QUIET * network.init_network(jax.random.key(0), (3, 2))["w0"]
    np.testing.assert_allclose(theta["w0"] - rest, [[0, 1, 0], [0, 0, 0]], atol=1e-6)
