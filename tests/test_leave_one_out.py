"""Parts of a theta that are left out are gone, and nothing else is."""

import importlib
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import linear_regression

from lopt.checkpoint import read
from lopt.evaluation.comparison import evaluate
from lopt.optimizers import layerwise
from lopt.suites import SuiteTask

ROOT = Path(__file__).parents[1]
OPTIONS = {
    name: parameter.default
    for name, parameter in inspect.signature(layerwise).parameters.items()
}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("leave_one_out")


def theta_of(options, key):
    theta = layerwise(**options).init(key)
    leaves, treedef = jax.tree.flatten(theta)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, noise)


@pytest.mark.parametrize("hidden_sizes", [(), (4,)])
def test_every_weight_belongs_to_one_part_of_its_kind(script, key, hidden_sizes):
    options = OPTIONS | {"hidden_sizes": hidden_sizes, "momenta": (0.5, 0.9)}
    options["prior_blend"] = (0.2, 0.3, 0.5)
    theta = theta_of(options, key)
    parts = script.without(theta, options)

    def gone(kind, leaf, value):
        names = [name for name in parts if name.startswith(kind)]
        assert len(names) > 1
        before = np.asarray(theta["network"][leaf])
        return sum(
            (parts[name]["network"][leaf] == value) & (before != value) for name in names
        )

    last = len(hidden_sizes)
    num_logits = len(options["bases"]) + 1 + len(options["momenta"])
    np.testing.assert_array_equal(gone("the inputs", "w0", 0.0), 1)
    np.testing.assert_array_equal(gone("a learned", f"w{last}", 0.0), 1)
    np.testing.assert_array_equal(gone("a learned", f"b{last}", 0.0), 1)
    np.testing.assert_array_equal(
        gone("the", f"b{last}", script.NEVER), [1] * num_logits + [0, 0]
    )


def test_without_anything_learned_it_is_the_prior(script):
    released = read(ROOT / "checkpoints" / "layerwise.safetensors")
    parts = script.without(released.theta, released.header.options)
    prior = jax.tree.map(jnp.zeros_like, released.theta)
    task = linear_regression()
    entry = SuiteTask(task=task, weight=1.0, min_steps=1, max_steps=20, num_steps=20)
    rivals = [
        ("parts", released.lopt, parts["anything learned"]),
        ("no base", released.lopt, parts["the base muon"]),
    ]
    results = evaluate(
        released.lopt, prior, [entry], baselines=rivals, seeds=2, budgets=[1.0]
    )
    ours, same, other = (c.budgets[0].losses for c in results.tasks[0].contenders)
    assert ours == same != other
    found = script.ratios(results)
    assert found["parts"]["median"] == 1.0
    assert found["no base"]["tasks"][task.name] == pytest.approx(
        np.mean(other) / np.mean(ours)
    )
