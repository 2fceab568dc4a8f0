"""The examples of users' models in tasks/, with the packages that they are for."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lopt
from lopt.checkpoint import read, save_file
from lopt.compiling import compile_lowered
from lopt.config import load_suite
from lopt.suites import build_tasks

TASKS = Path(__file__).parents[1] / "tasks"
PACKAGES = {
    "my_task": "sklearn", "my_nnx": "flax", "my_linen": "flax", "my_equinox": "equinox",
}  # fmt: skip
QUICK = (
    "outer_steps=2",
    "estimator.num_pairs=1",
    "unroll.length=5",
    "tasks.0.min_steps=5",
    "tasks.0.max_steps=20",
)

pytestmark = pytest.mark.usefixtures("compiled")


def path(name):
    package = PACKAGES[name]
    pytest.importorskip(package, reason=f"{package} is not installed")
    return TASKS / f"{name}.py"


def example(name):
    (built,) = build_tasks(load_suite(path(name)))
    return built.task


def quickly(function, *args):
    """The result; most of the time is the compiler's."""
    return compile_lowered(jax.jit(function).lower(*args), small=True)(*args)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_parameter_has_a_part_in_the_loss(name, key):
    task = example(name)

    def grads_and_metrics(key, data):
        params, state = task.init(key, data)
        batch = task.batch(key, data, "train")
        return jax.grad(task.loss, has_aux=True)(params, state, batch, key)

    grads, (_, metrics) = quickly(grads_and_metrics, key, task.data)
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(grads))
    assert all(0 <= value <= 1 for value in metrics.values())
    assert example(name).loss is task.loss, "the same file is the same program"


@pytest.mark.parametrize("name", ["my_nnx", "my_linen", "my_equinox"])
def test_it_is_meta_trained_exported_and_of_use(name, key, tmp_path):
    run = lopt.meta_train(path(name), overrides=QUICK, out=tmp_path / "run")
    assert len(run.metrics) == 2 and all(np.isfinite(m["loss"]) for m in run.metrics)
    assert not any(line["num_diverged"] for line in run.metrics)
    save_file(read(tmp_path / "run"), tmp_path / "x.safetensors")
    task = example(name)
    optimizer = lopt.load(tmp_path / "x.safetensors", num_steps=30, specs=task.specs)

    def train(key, data):
        params, state = task.init(key, data)
        test, loss = task.eval_batch(data, "test"), task.loss

        def step(carry, key):
            params, state, opt_state = carry
            batch = task.batch(key, data, "train")
            (value, (state, _)), grads = jax.value_and_grad(loss, has_aux=True)(
                params, state, batch, key
            )
            updates, opt_state = optimizer.update(grads, opt_state, params, value=value)
            return (optax.apply_updates(params, updates), state, opt_state), None

        carry = params, state, optimizer.init(params)
        carry, _ = jax.lax.scan(step, carry, jax.random.split(key, 30))
        return loss(params, state, test, key)[0], loss(*carry[:2], test, key)[0]

    before, after = quickly(train, key, task.data)
    assert after < 0.8 * before


def test_dropout_of_nnx_is_drawn_from_the_key(key):
    task = example("my_nnx")
    params, _ = task.init(key, task.data)
    batch = task.eval_batch(task.data, "train")
    loss = jax.jit(lambda seed: task.loss(params, (), batch, jax.random.key(seed))[0])
    losses = [float(loss(seed)) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_batch_statistics_of_linen_are_the_model_state(key):
    task = example("my_linen")
    params, state = task.init(key, task.data)
    x, y = task.eval_batch(task.data, "train")
    _, (state, _) = task.loss(params, state, (x, y), key)
    dense = np.asarray(params["layers_0"]["kernel"])
    mean = state["layers_1"]["mean"]
    np.testing.assert_allclose(mean, 0.01 * np.mean(x @ dense, axis=0), atol=1e-5)


def test_equinox_kernels_have_their_outputs_first(key):
    task = example("my_equinox")
    params, _ = task.init(key, task.data)
    x, y = task.eval_batch(task.data, "test")
    h = np.asarray(x)
    for layer, spec in zip(params.layers, task.specs.layers, strict=True):
        assert (spec.weight.fan_out, spec.weight.fan_in) == layer.weight.shape
        h = np.maximum(h, 0) if layer is not params.layers[0] else h
        h = h @ np.asarray(layer.weight).T + np.asarray(layer.bias)
    value, _ = task.loss(params, (), (x, y), key)
    assert value == pytest.approx(np.mean((h[:, 0] - np.asarray(y)) ** 2), rel=1e-4)
