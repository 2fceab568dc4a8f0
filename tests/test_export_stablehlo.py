"""The compiled update: another process reloads it without lopt, and it does the same."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from exported import made

from lopt.checkpoint import save_file
from lopt.cli import run
from lopt.errors import ConfigError
from lopt.export import stablehlo

PARAMS = {
    "a/kernel": np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(3, 4),
    "a/bias": np.arange(4, dtype=np.float32),
}

ALONE = """
import sys
sys.modules["lopt"] = None
import jax, jax.numpy as jnp, numpy as np
params = {k: jnp.asarray(v) for k, v in np.load(sys.argv[1]).items()}
CARD
found = {}
for i in range(3):
    grads = {k: jnp.cos(p + i) for k, p in params.items()}
    loss = jnp.float32(1.0 / (i + 1))
    updates, state = jax.jit(update)(grads, state, params, loss)
    found |= {f"{i}{k}": v for k, v in updates.items()}
np.savez(sys.argv[2], **found)
"""


@pytest.fixture
def like(tmp_path):
    safetensors.numpy.save_file(PARAMS, tmp_path / "params.safetensors")
    return tmp_path / "params.safetensors"


def expected(checkpoint, num_steps):
    params = jax.tree.map(jnp.asarray, PARAMS)
    optimizer = checkpoint.lopt.opt_fn(checkpoint.theta, num_steps=num_steps)
    update, state, found = jax.jit(optimizer.update), optimizer.init(params), {}
    for i in range(3):
        grads = {k: jnp.cos(p + i) for k, p in params.items()}
        loss = jnp.float32(1.0 / (i + 1))
        updates, state = update(grads, state, params, value=loss)
        found |= {f"{i}{k}": np.asarray(v) for k, v in updates.items()}
    return found


def test_another_process_reloads_it(tmp_path, like):
    """By the lines that its card says."""
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
    source = made("layerwise", bases=("adam", "sgd"), hidden_sizes=(3,))
    out = tmp_path / "compiled"
    stablehlo.write(source, out, like=like, num_steps=7)
    assert sorted(os.listdir(out)) == ["README.md", "init.jax", "update.jax"]
    card = (out / "README.md").read_text()
    assert "runs of 7 steps" in card and "| `a/kernel` | [3, 4] | float32 |" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    loader = code.partition("updates, state")[0]
    np.savez(tmp_path / "params.npz", **PARAMS)
    arguments = [str(tmp_path / name) for name in ("params.npz", "found.npz")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", ALONE.replace("CARD", loader), *arguments]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    got = np.load(tmp_path / "found.npz")
    for name, update in expected(source, 7).items():
        assert np.abs(update).max() > 0
        np.testing.assert_allclose(got[name], update, rtol=1e-6, atol=1e-9)


def test_names_shapes_and_dtypes_are_those_of_the_file(tmp_path):
    import ml_dtypes

    path = tmp_path / "x.safetensors"
    tensors = {"b": np.zeros((2, 3), ml_dtypes.bfloat16), "a": np.zeros((), np.float16)}
    safetensors.numpy.save_file(tensors, path)
    shapes = stablehlo.shapes_of(path)
    assert list(shapes) == ["a", "b"]
    assert (shapes["a"].shape, shapes["a"].dtype) == ((), jnp.float16)
    assert (shapes["b"].shape, shapes["b"].dtype) == ((2, 3), jnp.bfloat16)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "must hold parameters, got none"),
        ({"n": np.zeros(2, np.int64)}, "`n` of .* must be of .*, got `I64`"),
        ({"x": np.zeros(2)}, "got `F64`"),
        (None, "must be a safetensors file, got"),
        ("optimizer", "must hold a model's parameters, got the optimizer"),
    ],
)
def test_what_holds_no_parameters_is_refused(tmp_path, tensors, message):
    path = tmp_path / "x.safetensors"
    if isinstance(tensors, dict):
        safetensors.numpy.save_file(tensors, path)
    elif tensors == "optimizer":
        save_file(made("learnable_sgd"), path)
    with pytest.raises(ConfigError, match=message) as error:
        stablehlo.write(made("learnable_sgd"), tmp_path / "out", like=path)
    assert "\n" not in error.value.message and str(path) in error.value.message
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path, like, capsys):
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")
    source, out = tmp_path / "a.safetensors", tmp_path / "out"
    save_file(made("layerwise", bases=("sgd",), prior_logits={}), source)
    line = ["export", str(source), "--format", "stablehlo", "-o", str(out)]
    assert run(line) == 2
    assert "`--like` must be given with `--format stablehlo`" in capsys.readouterr().err
    line += ["--like", str(like)]
    assert run(line) == 2
    told = capsys.readouterr().err
    assert "needs `num_steps`" in told and "--num-steps N" in told
    assert not out.exists()
    line += ["--num-steps", "5"]
    assert run(line) == 0
    assert "README.md` says how it is called" in capsys.readouterr().err
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    assert run(line) == 1
    assert "exists already" in capsys.readouterr().err
    assert before == {p.name: p.read_bytes() for p in out.iterdir()}


def test_a_package_that_is_absent_is_named(tmp_path, like, monkeypatch):
    def absent(*args):
        raise ImportError("Please install 'flatbuffers'")

    monkeypatch.setattr(stablehlo.export.Exported, "serialize", absent)
    with pytest.raises(ConfigError, match="needs the package `flatbuffers`") as error:
        stablehlo.write(made("learnable_sgd"), tmp_path / "out", like=like)
    assert "lopt[stablehlo]" in error.value.hint
    assert not (tmp_path / "out").exists()
