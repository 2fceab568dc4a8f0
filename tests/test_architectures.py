"""The published architectures: precision, starts, options, and what makes them fast."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import random_tree

from lopt import features
from lopt.base import ParamSpec
from lopt.errors import ConfigError
from lopt.optimizers import network, pieces
from lopt.optimizers.adafac_mlp import adafac_mlp
from lopt.optimizers.celo import celo
from lopt.optimizers.celo2 import celo2
from lopt.optimizers.learnable import learnable_adam, learnable_sgd, learnable_sgdm
from lopt.optimizers.mlp import mlp
from lopt.optimizers.nn_adam import nn_adam
from lopt.optimizers.preprocessed import mup_adafac
from lopt.optimizers.rnn_mlp import rnn_mlp
from lopt.optimizers.velo import velo

ARCHITECTURES = {
    "learnable_sgd": learnable_sgd,
    "learnable_sgdm": learnable_sgdm,
    "learnable_adam": learnable_adam,
    "nn_adam": nn_adam,
    "mlp": mlp,
    "adafac_mlp": adafac_mlp,
    "mup_adafac": mup_adafac,
    "celo2": celo2,
    "celo": celo,
    "velo": lambda: velo(hidden_size=8, num_networks=4),
    "rnn_mlp": lambda: rnn_mlp(hidden_size=8, hidden_sizes=(8,)),
}
SHAPES = {"scalar": (), "vector": (5,), "kernel": (3, 3, 2, 4)}


@pytest.fixture(params=ARCHITECTURES)
def lopt(request):
    return ARCHITECTURES[request.param]()


def tree(seed: int, dtype=jnp.float32, shapes=None) -> dict:
    keys = jax.random.split(jax.random.key(seed), len(shapes or SHAPES))
    return {
        name: jax.random.normal(key, shape).astype(dtype)
        for key, (name, shape) in zip(keys, (shapes or SHAPES).items(), strict=True)
    }


def steps(optimizer, params, grads, num=3):
    """The last of `num` updates, and the parameters."""
    update, state = jax.jit(optimizer.update), optimizer.init(params)
    for _ in range(num):
        updates, state = update(grads, state, params, value=jnp.float32(1.0))
        params = optax.apply_updates(params, updates)
    return updates, params


def test_bfloat16_differs_by_rounding_alone(lopt):
    """State and arithmetic are float32."""
    optimizer = lopt.opt_fn(lopt.init(jax.random.key(2)), num_steps=10)
    low = tree(0, jnp.bfloat16), tree(1, jnp.bfloat16)
    high = jax.tree.map(lambda x: x.astype(jnp.float32), low)
    exact, _ = steps(optimizer, *high)
    rounded, _ = steps(optimizer, *low)
    for name, update in exact.items():
        assert jnp.any(update != 0)
        error = jnp.abs(rounded[name].astype(jnp.float32) - update).max()
        assert error <= 0.02 * jnp.abs(update).max()


@pytest.mark.parametrize("factory", [mlp, adafac_mlp, nn_adam, mup_adafac])
def test_missing_params_are_named(factory):
    lopt = factory()
    optimizer = lopt.opt_fn(lopt.init(jax.random.key(0)))
    params = {"vector": jnp.ones(3)}
    with pytest.raises(ValueError, match="params"):
        optimizer.update(params, optimizer.init(params))


@pytest.mark.parametrize("factory", [mlp, adafac_mlp, learnable_adam, nn_adam])
def test_specs_scale_each_tensor_by_its_mup_multiplier(factory):
    params, grads = {"w": jnp.ones((6, 4))}, {"w": jnp.ones((6, 4))}
    lopt = factory()
    theta = lopt.init(jax.random.key(0))
    spec = ParamSpec(
        role="hidden", shape=(6, 4), in_axes=(0,), out_axes=(1,), width_in=8.0
    )
    plain = steps(lopt.opt_fn(theta), params, grads, num=1)[0]["w"]
    scaled = steps(lopt.opt_fn(theta, specs={"w": spec}), params, grads, num=1)[0]["w"]
    np.testing.assert_allclose(scaled, plain / 8, rtol=1e-6)


@pytest.mark.parametrize("factory", [learnable_sgd, learnable_sgdm])
def test_specs_scale_gradients_by_theirs(factory):
    grads = {"b": jnp.ones(4)}
    lopt = factory()
    theta = lopt.init(jax.random.key(0))
    specs = {"b": ParamSpec(role="bias", shape=(4,), out_axes=(0,), width_out=8.0)}
    plain = steps(lopt.opt_fn(theta), grads, grads, num=1)[0]["b"]
    scaled = steps(lopt.opt_fn(theta, specs=specs), grads, grads, num=1)[0]["b"]
    np.testing.assert_allclose(scaled, 8 * plain, rtol=1e-6)


def test_learnable_optimizers_start_as_those_of_optax():
    pairs = [
        (learnable_sgd(learning_rate=0.1), optax.sgd(0.1)),
        (learnable_sgdm(learning_rate=0.1, momentum=0.8), optax.sgd(0.1, 0.8)),
        (
            learnable_adam(learning_rate=0.1, b1=0.8, b2=0.95),
            optax.adam(0.1, 0.8, 0.95, eps=1e-8, eps_root=1e-8),
        ),
    ]
    params, grads = tree(0), tree(1)
    for lopt, expected in pairs:
        ours = steps(lopt.opt_fn(lopt.init(jax.random.key(0))), params, grads)[1]
        theirs = steps(optax.with_extra_args_support(expected), params, grads)[1]
        for name in params:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


def test_a_role_learns_hyperparameters_of_its_own():
    lopt = learnable_sgd(learning_rate=1.0, per_role=True)
    theta = lopt.init(jax.random.key(0))
    roles = {"a": "input", "b": "output"}
    specs = {k: ParamSpec(role=role, shape=(2,)) for k, role in roles.items()}
    theta["log_lr"] = theta["log_lr"].at[2].add(jnp.log(3.0))  # output
    grads = {k: jnp.ones(2) for k in roles}
    updates = steps(lopt.opt_fn(theta, specs=specs), grads, grads, num=1)[0]
    np.testing.assert_allclose(updates["a"], -1.0)
    np.testing.assert_allclose(updates["b"], -3.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("pack_size", "slice_size"), [(2**16, 608), (2**16, 2**16), (30, 1100)]
)
@pytest.mark.parametrize("has_rows", [True, False])
@pytest.mark.parametrize("hidden_sizes", [(4, 4), (32, 32), (5,), ()])
def test_network_equals_its_plain_formula_in_every_order_of_evaluation(
    hidden_sizes, has_rows, pack_size, slice_size, monkeypatch
):
    """Small and large tensors, narrow and wide networks take different ways."""
    monkeypatch.setattr(network, "_LARGE_PACK", pack_size)
    monkeypatch.setattr(pieces, "_LARGE", pack_size)
    monkeypatch.setattr(pieces, "PIECE", slice_size)
    monkeypatch.setattr(network, "_CACHED_SLICE", slice_size)
    monkeypatch.setattr(network, "_LARGE_SLICE", slice_size)
    key = jax.random.key(0)
    num_channels = 3 + 1 + 2 + 2
    sizes = (num_channels + 11, *hidden_sizes, 2)
    theta = network.init_network(key, sizes)
    theta = jax.tree.map(lambda x: x + 0.1, theta)
    shared = features.tanh_time_features(5)
    channels = [
        [
            jax.random.normal(jax.random.key(i), (3, *shape)) * 7,
            jax.random.normal(jax.random.key(i + 7), (1, *shape)) + 3,
            jax.random.normal(jax.random.key(i + 9), (2, *row)),
            jax.random.normal(jax.random.key(i + 99), (2, *column)),
        ]
        for i, shape in enumerate([(40, 50), (6, 4), (3, 5), (2, 3, 600)])
        for row, column in [
            ((*shape[:-1], 1), (1, *shape[1:])) if has_rows else (shape, shape)
        ]
    ]

    @jax.jit
    def apply(theta, channels, shared):
        seen = [pieces.Channels(lambda *x: list(x), tuple(c)) for c in channels]
        return network.apply_network(theta, seen, shared, 1e-5)

    outputs = apply(theta, channels, shared)
    for c, ours in zip(channels, outputs, strict=True):
        x = np.asarray(network.normalized(c, eps=1e-5), np.float64)
        time = np.asarray(shared).reshape((-1,) + (1,) * (x.ndim - 1))
        x = np.concatenate([x, np.broadcast_to(time, (11, *x.shape[1:]))])
        for i in range(len(sizes) - 1):
            x = np.maximum(x, 0) if i else x
            b = np.asarray(theta[f"b{i}"]).reshape((-1,) + (1,) * (x.ndim - 1))
            x = np.tensordot(np.asarray(theta[f"w{i}"]), x, axes=1) + b
        np.testing.assert_allclose(np.stack(ours), x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["adafac_mlp", "celo2", "mlp", "mup_adafac", "rnn_mlp", "velo"]
)
def test_pieces_do_not_change_the_update(name, monkeypatch):
    """Of a tensor whose second moments are factored, and of one whose are not."""
    options = {"orthogonalize": False, "vectors": "learned"} if name == "celo2" else {}
    lopt = ARCHITECTURES[name](**options)
    theta = jax.tree.map(lambda x: x + 0.1, lopt.init(jax.random.key(0)))
    shapes = {"kernel": (40, 50), "vector": (700,)}
    params = random_tree(shapes, jax.random.key(0))
    grads = jax.tree.map(jnp.cos, params)
    whole = steps(lopt.opt_fn(theta, num_steps=10), params, grads, num=2)
    monkeypatch.setattr(pieces, "_LARGE", 100)
    monkeypatch.setattr(pieces, "PIECE", 450)  # 9 rows of 40: the last ones overlap
    optimizer, cuts = lopt.opt_fn(theta, num_steps=10), []
    cut = pieces._cut
    monkeypatch.setattr(pieces, "_cut", lambda c: cuts.append(cut(c)) or cuts[-1])
    in_pieces = steps(optimizer, params, grads, num=2)
    assert {c.num_pieces for c in cuts} == {2, 5}
    for ours, theirs in zip(in_pieces, whole, strict=True):
        for leaf in params:
            np.testing.assert_allclose(ours[leaf], theirs[leaf], rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_tensor_breaks_no_other(value, monkeypatch):
    """Large ones wait for each other, and share nothing."""
    monkeypatch.setattr(pieces, "_LARGE", 100)
    lopt = ARCHITECTURES["adafac_mlp"]()
    theta = jax.tree.map(lambda x: x + 0.1, lopt.init(jax.random.key(0)))
    params = random_tree({"a": (40, 50), "b": (40, 50)}, jax.random.key(0))
    grads = jax.tree.map(jnp.cos, params)
    broken = grads | {"a": jnp.full((40, 50), value)}
    optimizer = lopt.opt_fn(theta, num_steps=10)
    whole, part = (steps(optimizer, params, g, num=1)[-1] for g in (grads, broken))
    assert not np.any(np.isfinite(part["a"])) and np.all(np.isfinite(part["b"]))
    np.testing.assert_array_equal(part["b"], whole["b"])


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (mlp, {"hidden_sizes": (4, 0)}, "`hidden_sizes` must be positive"),
        (mlp, {"decays": (0.9, 1.0)}, "`decays` must be in"),
        (mlp, {"step_mult": 0.0}, "`step_mult` must be positive, got 0.0"),
        (adafac_mlp, {"rms_decays": (0.9, 0.99)}, "`rms_decays` must be one or as"),
        (adafac_mlp, {"factored_decays": ()}, "`factored_decays` must be in"),
        (mup_adafac, {"clip_norm": -1.0}, "`clip_norm` must not be negative, got -1.0"),
        (nn_adam, {"b1": 1.0}, "`b1` must be in"),
        (learnable_adam, {"eps": -1.0}, "`eps` must be positive"),
        (learnable_sgdm, {"momentum": 1.5}, "`momentum` must be in"),
    ],
)
def test_an_option_out_of_range_is_named(factory, options, message):
    with pytest.raises(ConfigError, match=message):
        factory(**options)
