"""The examples of users' models in tasks/, with the packages that they are for."""

from functools import cache
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


def path(name):
    package = PACKAGES[name]
    pytest.importorskip(package, reason=f"{package} is not installed")
    return TASKS / f"{name}.py"


@cache
def example(name):
    (built,) = build_tasks(load_suite(path(name)), trust=True)
    return built.task


@pytest.mark.parametrize("name", PACKAGES)
def test_it_is_at_most_25_lines(name):
    lines = (TASKS / f"{name}.py").read_text().splitlines()
    assert len([s for s in lines if s and not s.strip().startswith('"""')]) <= 25


def quickly(function, *args):
    """The result: what takes long is to compile."""
    return compile_lowered(jax.jit(function).lower(*args), small=True)(*args)


@pytest.mark.parametrize("name", ["my_nnx", "my_linen", "my_equinox"])
def test_it_is_meta_trained_exported_and_of_use(name, key, tmp_path):
    run = lopt.meta_train(path(name), overrides=QUICK, out=tmp_path / "run")
    assert len(run.metrics) == 2 and all(np.isfinite(m["loss"]) for m in run.metrics)
    assert not any(line["num_diverged"] for line in run.metrics)
    save_file(read(tmp_path / "run"), tmp_path / "x.safetensors")
    task = example(name)
    optimizer = lopt.load(tmp_path / "x.safetensors", num_steps=30, specs=task.specs)
    value_and_grad = jax.value_and_grad(task.loss, has_aux=True)

    def train(key, data):
        def step(carry, key):
            params, state, opt_state = carry
            batch = task.batch(key, data, "train")
            (loss, (state, metrics)), grads = value_and_grad(params, state, batch, key)
            updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
            carry = optax.apply_updates(params, updates), state, opt_state
            return carry, (loss, grads, metrics)

        params, state = task.init(key, data)
        carry = params, state, optimizer.init(params)
        return jax.lax.scan(step, carry, jax.random.split(key, 30))[1]

    losses, grads, metrics = quickly(train, key, task.data)
    assert losses[-5:].mean() < 0.8 * losses[0]
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(grads)), "has it a part in it?"
    assert all(jnp.all((v >= 0) & (v <= 1)) for v in metrics.values())


def test_the_same_file_is_the_same_program():
    again = example.__wrapped__("my_task")
    assert (
        again.loss is example("my_task").loss and again.specs == example("my_task").specs
    )


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
    params, _ = task.init(jax.random.key(1), task.data)
    x, y = task.eval_batch(task.data, "test")
    h = np.asarray(x)
    for layer, spec in zip(params.layers, task.specs.layers, strict=True):
        assert (spec.weight.fan_out, spec.weight.fan_in) == layer.weight.shape
        h = np.maximum(h, 0) if layer is not params.layers[0] else h
        h = h @ np.asarray(layer.weight).T + np.asarray(layer.bias)
    value, _ = task.loss(params, (), (x, y), key)
    assert value == pytest.approx(np.mean((h[:, 0] - np.asarray(y)) ** 2), rel=1e-4)
