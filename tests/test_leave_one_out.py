"""Parts of a theta that are left out are gone, and nothing else is."""

import jax
import jax.numpy as jnp
import leave_one_out
import numpy as np
import pytest
from exported import made
from loss_ratios import ratios
from problems import linear_regression

from lopt.checkpoint import read
from lopt.evaluation.comparison import evaluate
from lopt.suites import SuiteTask


@pytest.mark.parametrize("hidden_sizes", [(), (4,)])
def test_every_weight_belongs_to_one_part_of_its_kind(hidden_sizes):
    whole = made(
        "layerwise",
        hidden_sizes=hidden_sizes,
        momenta=(0.5, 0.9),
        prior_blend=(0.2, 0.3, 0.5),
    )
    theta, options = whole.theta, whole.header.options
    parts = leave_one_out.without(theta, options)

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
        gone("the", f"b{last}", leave_one_out.NEVER), [1] * num_logits + [0, 0]
    )


def test_without_anything_learned_it_is_the_prior():
    released = read("layerwise")
    parts = leave_one_out.without(released.theta, released.header.options)
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
    found = ratios(results)
    assert found["parts"]["median"] == 1.0
    assert found["no base"]["tasks"][task.name] == pytest.approx(
        np.mean(other) / np.mean(ours)
    )
