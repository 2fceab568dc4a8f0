"""tasks/scheduled.py: a cosine and weight decay around an architecture."""

import runpy
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import assert_same_bits, train

import lopt
from lopt import mup
from lopt.checkpoint import load, read, save_file
from lopt.errors import ConfigError
from lopt.optimizers import OPTIMIZERS

FILE = Path(__file__).parents[1] / "tasks" / "scheduled.py"


@pytest.mark.parametrize("layers", [None, 4, 9])
def test_it_is_the_update_and_decay_under_a_cosine(layers):
    """Slower where the network is deeper, and decay of matrices alone."""
    scheduled = runpy.run_path(str(FILE))["scheduled"]
    wrapped = scheduled(architecture="learnable_adam", weight_decay=0.5, b1=0.5)
    inner = OPTIMIZERS["learnable_adam"](b1=0.5)
    theta, key = wrapped.init(jax.random.key(0)), jax.random.key(0)
    assert jax.tree.all(
        jax.tree.map(jnp.array_equal, theta["architecture"], inner.init(key))
    )
    theta |= {"log_step": jnp.log(3.0), "depth_exponent": jnp.float32(1.5)}
    p, num_steps = {"w": jnp.asarray([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.ones(2)}, 4
    specs = mup.infer_specs(p)
    specs = jax.tree.map(lambda s: replace(s, num_layers=layers), specs)
    ours = wrapped.opt_fn(theta, specs=specs if layers else None, num_steps=num_steps)
    theirs = inner.opt_fn(theta["architecture"])
    state, their_state = ours.init(p), theirs.init(p)
    for i in range(6):
        g = jax.tree.map(lambda x, i=i: jnp.cos(x + i), p)
        updates, state = ours.update(g, state, p, value=1.0)
        plain, their_state = theirs.update(g, their_state, p, value=1.0)
        factor = 0.5 * (1 + np.cos(np.pi * min(i / num_steps, 1)))
        factor *= (4 / (layers or 4)) ** 1.5
        for name, decay in (("w", 0.5), ("b", 0.0)):
            expected = factor * (3.0 * plain[name] - decay * p[name])
            np.testing.assert_allclose(updates[name], expected, rtol=1e-5, atol=1e-7)
    with pytest.raises(TypeError, match="num_steps"):
        wrapped.opt_fn(theta)


@pytest.mark.slow
def test_it_is_meta_trained_exported_and_loaded(tmp_path):
    architecture = ["optimizer.architecture=adafac_mlp", "optimizer.step_mult=0.01"]
    sets = [f"optimizer.name={FILE}:scheduled", *architecture, "outer_steps=2"]
    lopt.meta_train("quick", overrides=sets, out=tmp_path / "run")
    run = read(tmp_path / "run", trust=True)
    start = run.lopt.init(jax.random.key(0))
    assert run.theta["log_decay"] != start["log_decay"]
    save_file(run, tmp_path / "x.safetensors")
    loaded = load(tmp_path / "x.safetensors", num_steps=5, trust=True)
    ours = run.lopt.opt_fn(run.theta, num_steps=5)
    assert_same_bits(train(loaded, 3)[0], train(ours, 3)[0])


@pytest.mark.parametrize(
    ("architecture", "option", "words"),
    [
        ("learnable_sgd", "momentum=0.5", "momentum"),
        ("learnable_sgd", "weight_decay=0", "`weight_decay` must be positive"),
        ("adafacmlp", "weight_decay=0.1", "`architecture` must be.*adafac_mlp"),
    ],
)
def test_what_makes_no_sense_is_refused(architecture, option, words):
    sets = [f"optimizer.name={FILE}:scheduled", f"optimizer.architecture={architecture}"]
    with pytest.raises(ConfigError, match=words):
        lopt.meta_train("quick", overrides=[*sets, f"optimizer.{option}"])
