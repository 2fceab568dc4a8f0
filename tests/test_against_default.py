"""AdamW that nobody tuned is optax's, and losses are told over its own."""

import json
from argparse import Namespace

import against_default
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt.checkpoint import read
from lopt.config import load_suite
from lopt.suites import build_tasks


def test_the_opponent_is_adamw_of_optax_at_its_default_rate():
    lopt, theta = against_default.adamw()
    params = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)}
    grads = jax.tree.map(jnp.cos, params)
    found = []
    for optimizer in (lopt.opt_fn(theta, num_steps=9), optax.adamw(1e-3)):
        optimizer, changes = optax.with_extra_args_support(optimizer), []
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(grads, state, params, value=1.0)
            changes.append(updates["w"])
        found.append(changes)
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_losses_are_those_of_the_file_over_adamws(tmp_path, capsys):
    out = tmp_path / "found.json"
    file = read("layerwise").path
    against_default.run(
        Namespace(optimizers=[file], suite="quick", seeds=2, seed=3, out=out)
    )
    found = json.loads(out.read_text())["over AdamW"]["layerwise"]
    task, *_ = build_tasks(load_suite("quick", []))
    learned = read(file)
    lopt, theta = against_default.adamw()
    direct = against_default.contest(
        {"a": (learned.lopt, learned.theta), "b": (lopt, theta)},
        "quick",
        seeds=2,
        seed=3,
    )
    ours, theirs = (np.mean(c.budgets[-1].losses) for c in direct.tasks[0].contenders)
    assert found["tasks"][task.task.name] == pytest.approx(ours / theirs)
    worst, told = max(found["tasks"].values()), capsys.readouterr().out
    assert f"worst {worst:.3f}" in told
    assert ("NOT reached" in told) == (worst > 1.1)
