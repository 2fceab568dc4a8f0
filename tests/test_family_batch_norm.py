"""Batch normalization, in plain numpy: in training, where curves are read, in between."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from family_tools import params_without_zeros, quick

from lopt.families import FAMILIES
from lopt.families.batch_norm import Moments, normalized
from lopt.unroll import inner_step

SMALL = {"normalization": "batch", "width": 6, "base_width": 6, "depth": 2}


def test_moments_are_those_of_all_but_the_first_axis():
    h = np.random.RandomState(0).randn(3, 4, 5, 6) * [[[[2.0]]], [[[1]]], [[[9]]]] + 1
    found, own = quick(normalized)(jnp.asarray(h, jnp.float32), None)
    mean, variance = h.mean((1, 2, 3)), h.var((1, 2, 3))
    np.testing.assert_allclose(own.mean, mean, rtol=1e-4)
    np.testing.assert_allclose(own.variance, variance, rtol=1e-4)
    scale = np.sqrt(variance + 1e-5)[:, None, None, None]
    expected = (h - mean[:, None, None, None]) / scale
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    running = Moments(jnp.asarray([0.0, 1, 2]), jnp.asarray([4.0, 9, 16]))
    found, again = quick(normalized)(jnp.asarray(h, jnp.float32), running)
    expected = (h - np.arange(3)[:, None, None, None]) / np.array([2, 3, 4]).reshape(
        -1, 1, 1, 1
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(own.mean, again.mean)


def numpy_loss(params, x, y, state):
    """Of an MLP, and the moments of its hidden layers; `state` None: the batch's own."""
    h, found = np.asarray(x, np.float64), {}
    *hidden, output = params
    for name in hidden:
        layer = {key: np.asarray(p, np.float64) for key, p in params[name].items()}
        h = h @ layer["w"]
        found[name] = h.mean(0), h.var(0)
        moments = found[name] if state is None else state[name]
        mean, variance = (np.asarray(moment, np.float64) for moment in moments)
        h = (h - mean) / np.sqrt(variance + 1e-5)
        h = np.maximum(h * layer["scale"] + layer["b"], 0)
    logits = h @ np.asarray(params[output]["w"]) + np.asarray(params[output]["b"])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log_p[np.arange(len(y)), np.asarray(y)].mean(), found


def test_training_is_by_the_minibatch_and_reading_by_running_moments(key):
    task = FAMILIES["mlp"](batch_size=16, **SMALL)
    params = params_without_zeros(task, key)
    _, state = task.init(key, task.data)
    assert set(state) == {"layer_0", "layer_1"}
    for moments in state.values():
        assert not moments.mean.any() and (moments.variance == 1).all()
    measure = quick(task.loss)
    for seed in range(2):
        batch = task.batch(jax.random.key(seed), task.data, "train")
        loss, (new, _) = measure(params, state, batch, key)
        expected, found = numpy_loss(params, *batch, None)
        assert float(loss) == pytest.approx(expected, rel=1e-4)
        for name, (mean, variance) in found.items():
            for now, before, own in zip(
                new[name], state[name], (mean, variance), strict=True
            ):
                moved = 0.9 * np.asarray(before) + 0.1 * own
                np.testing.assert_allclose(now, moved, rtol=1e-4, atol=1e-5)
        state = new
    whole = task.eval_batch(task.data, "valid")
    loss, (kept, _) = measure(params, state, whole, key)
    assert float(loss) == pytest.approx(numpy_loss(params, *whole, state)[0], rel=1e-4)
    for now, before in zip(*map(jax.tree.leaves, (kept, state)), strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("convnet", {"residual": True}),
        ("regression", {"dataset": "diabetes"}),
        ("autoencoder", {"variational": True}),
    ],
)
def test_every_hidden_layer_has_moments_of_its_own_products(key, family, options):
    """Read with a minibatch's moments, it costs what it does in training, and its scale
    undoes what its weights are multiplied by."""
    task = FAMILIES[family](**SMALL, **options)
    params = params_without_zeros(task, key)
    _, state = task.init(key, task.data)
    hidden = [name for name in params if "scale" in params[name]]
    assert set(state) == set(hidden) and len(hidden) >= 2
    batch = task.batch(key, task.data, "train")
    measure = quick(task.loss)
    loss, (new, _) = measure(params, state, batch, key)
    own = jax.tree.map(lambda n, s: (n - 0.9 * s) / 0.1, new, state)
    whole = type(task.eval_batch(task.data, "valid"))(*batch)
    again, _ = measure(params, own, whole, key)
    assert float(again) == pytest.approx(float(loss), rel=1e-3)
    assert float(measure(params, state, whole, key)[0]) != pytest.approx(float(loss))
    for name in hidden:
        layer = params[name]
        wider = {**params, name: {**layer, "w": 3 * layer["w"]}}
        same, _ = measure(wider, state, batch, key)
        assert float(same) == pytest.approx(float(loss), rel=1e-3)


def test_specs_have_gains_and_names_tell(key):
    task = FAMILIES["convnet"](normalization="batch", residual=True)
    assert task.name == "resnet-digits-2x16-relu-batch-norm"
    assert [task.specs[f"layer_{i}"]["scale"].role for i in range(3)] == ["norm"] * 3
    assert "scale" not in task.specs["layer_3"]


def test_adam_learns_it(key):
    """And the running moments follow: at the start they say nothing."""
    task, adam = FAMILIES["convnet"](normalization="batch"), optax.adam(1e-2)

    @jax.jit
    def train(key, data):
        init_key, run_key = jax.random.split(key)
        params, start = task.init(init_key, data)

        def step(carry, keys):
            return tuple(inner_step(task, adam, *carry, keys=keys, data=data)[1:]), None

        carry = params, start, adam.init(params)
        keys = jax.random.split(run_key, (200, 2))
        (params, state, _), _ = jax.lax.scan(step, carry, keys)
        batch = task.eval_batch(data, "valid")
        return [task.loss(params, s, batch, key)[0] for s in (state, start)]

    followed, stale = train(key, task.data)
    assert followed < 0.35 and stale > 2 * followed
