"""The optimizer of theta: any of optax, with its schedule and options."""

import numpy as np
import optax
import optax.contrib
import pytest
from toy_runs import TOY

from lopt.config import load_suite
from lopt.run.outer_optimizer import outer_optimizer


def test_outer_optimizer_is_the_one_asked_for():
    config = load_suite(
        TOY,
        [
            "outer_steps=10",
            "outer_optimizer.name=sgd",
            "outer_optimizer.learning_rate=0.5",
            "outer_optimizer.warmup_steps=2",
            "outer_optimizer.clip_norm=1.0",
        ],
    )
    optimizer = outer_optimizer(config.outer_optimizer, config.outer_steps)
    theta = {"a": np.float32(0)}
    state = optimizer.init(theta)
    rates = []
    for _ in range(11):
        updates, state = optimizer.update({"a": np.float32(-4)}, state, theta)
        rates.append(float(updates["a"]))
    cosine = [0.25 * (1 + np.cos(np.pi * t / 8)) for t in range(9)]
    np.testing.assert_allclose(rates, [0.0, 0.25, *cosine], atol=1e-6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], optax.adam(0.5)),
        (["name=adamw", "weight_decay=0.1"], optax.adamw(0.5, weight_decay=0.1)),
        (["name=sgd", "momentum=0.9", "nesterov=true"], optax.sgd(0.5, 0.9, True)),
        (["name=contrib.muon"], optax.contrib.muon(0.5)),
        (
            ["schedule=linear"],
            optax.adam(optax.linear_schedule(0.5, 0.0, 5)),
        ),
        (
            ["schedule=exponential", "schedule_options.decay_rate=0.1"],
            optax.adam(optax.exponential_decay(0.5, 5, 0.1)),
        ),
        (
            ["schedule=cosine", "schedule_options.alpha=0.2"],
            optax.adam(optax.cosine_decay_schedule(0.5, 5, 0.2)),
        ),
    ],
)
def test_any_optimizer_of_optax_with_its_options(given, expected):
    plain = ["learning_rate=0.5", "clip_norm=0.0", "schedule=constant", *given]
    config = load_suite(TOY, [f"outer_optimizer.{x}" for x in plain])
    got = outer_optimizer(config.outer_optimizer, 5)
    theta = {"w": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)}
    ours, theirs = got.init(theta), expected.init(theta)
    for _ in range(3):
        one, ours = got.update(theta, ours, theta)
        two, theirs = expected.update(theta, theirs, theta)
        for name in theta:
            np.testing.assert_array_equal(one[name], two[name])
