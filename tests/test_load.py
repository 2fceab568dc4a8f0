"""What `load` returns: an optax optimizer that says what it lacks."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exported import PARAMS, loss_fn

from lopt.checkpoint import Checkpoint, load, save_file
from lopt.config import locate, released
from lopt.files.fileformat import Header
from lopt.optimizers import OPTIMIZERS
from lopt.options import resolved


def test_composes_with_chain_vmap_and_scan(file):
    optimizer = optax.chain(optax.clip(0.1), load(file, num_steps=10))

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    def run(params):
        return jax.lax.scan(step, (params, optimizer.init(params)), length=10)[1]

    two = jax.tree.map(lambda x: jnp.stack([x, x + 0.1]), PARAMS)
    both = jax.jit(jax.vmap(run))(two)
    alone = jax.jit(run)(PARAMS)
    np.testing.assert_allclose(both[0], alone, rtol=1e-4)
    assert alone[-1] < alone[0]


def test_params_of_another_tree_are_refused(file):
    optimizer = load(file, num_steps=10)
    state = jax.eval_shape(optimizer.init, PARAMS)

    def update(params, grads=None):
        grads = params if grads is None else grads
        value = jnp.float32(1)
        return jax.eval_shape(optimizer.update, grads, state, params, value=value)

    update(PARAMS)
    lacking = {"a": PARAMS["a"]}
    with pytest.raises(ValueError, match=r"lack.*\['b'\]"):
        update(lacking)
    with pytest.raises(ValueError, match=r"unknown.*\['c'\]"):
        update({**PARAMS, "c": jnp.ones(2)})
    other = {**PARAMS, "b": [jnp.ones(5)]}
    with pytest.raises(ValueError, match=r"\['b'\]\[0\].*shape \[5\], not \[\]"):
        update(other)
    with pytest.raises(ValueError, match="parameters"):
        update(other, grads=PARAMS)


def test_run_length_and_loss_are_asked_for(file):
    with pytest.raises(TypeError, match="num_steps"):
        load(file)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        load(file, num_steps=0)
    optimizer = load(file, num_steps=3)
    with pytest.raises(TypeError, match="value"):
        state = jax.eval_shape(optimizer.init, PARAMS)
        jax.eval_shape(optimizer.update, PARAMS, state, PARAMS)


def test_names_of_released_files_and_paths(file, tmp_path, monkeypatch):
    assert locate("layerwise") == released("checkpoints", "layerwise")
    assert locate(file) == file
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layerwise").mkdir()
    assert locate("layerwise") == Path("layerwise")


SCRIPT = """
import sys
import jax, jax.numpy as jnp, optax
import lopt

def loss_fn(params, x, y):
    return jnp.mean(jnp.square(jnp.tanh(x @ params["w"]) @ params["v"] - y))

x = jax.random.normal(jax.random.key(0), (32, 4))
params = {"w": 0.5 * jax.random.normal(jax.random.key(1), (4, 8)), "v": jnp.ones((8, 1))}
y = jnp.sum(x, axis=1, keepdims=True)
optimizer = lopt.load(sys.argv[1], num_steps=100)
state = optimizer.init(params)

@jax.jit
def step(params, state):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    updates, state = optimizer.update(grads, state, params, value=loss)
    return optax.apply_updates(params, updates), state, loss

losses = []
for _ in range(100):
    params, state, loss = step(params, state)
    losses.append(float(loss))
print(losses[0], losses[-1])
assert losses[-1] < 0.3 * losses[0]
"""


def test_the_file_in_a_plain_training_script(tmp_path):
    lopt = OPTIMIZERS["layerwise"]()
    header = Header(optimizer="layerwise", options=resolved(OPTIMIZERS["layerwise"], {}))
    prior = Checkpoint(
        path=tmp_path, lopt=lopt, theta=lopt.init(jax.random.key(0)), header=header
    )
    save_file(prior, tmp_path / "layerwise.safetensors")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "layerwise.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
