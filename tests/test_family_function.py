"""Functions with known optima, by their formulas in the literature; their options."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_tools import quick

from lopt import mup
from lopt.errors import ConfigError
from lopt.families.function import FUNCTIONS, function


def rosenbrock(z):
    return np.mean(100 * (z[1:] - z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2)


def rastrigin(z):
    return 10 + np.mean(z**2 - 10 * np.cos(2 * np.pi * z))


def styblinski_tang(z):
    return np.mean(z**4 - 16 * z**2 + 5 * z) / 2


def ackley(z):
    r, c = np.sqrt(np.mean(z**2)), np.mean(np.cos(2 * np.pi * z))
    return 20 + math.e - 20 * np.exp(-0.2 * r) - np.exp(c)


LITERATURE = {
    "rosenbrock": (rosenbrock, 1.0, 0.0, 1.0),
    "rastrigin": (rastrigin, 0.0, 0.0, 2.0),
    "styblinski_tang": (styblinski_tang, -2.903534, -39.16617, 2.0),
    "ackley": (ackley, 0.0, 0.0, 4.0),
}
"""Of each coordinate the optimum, there the value; and the radius."""
EACH = pytest.mark.parametrize("name", FUNCTIONS)


@EACH
def test_loss_is_the_function_of_the_literature_minus_its_optimum(name, key):
    task = function(function=name, width=6, noise=0.3, data_seed=3)
    value_of, optimum, least, radius = LITERATURE[name]
    batch = task.batch(key, task.data, "train")
    scale, moved = float(task.data["scale"]), np.asarray(batch["moved"], np.float64)
    measure = quick(task.loss)
    for seed in range(10, 15):
        x = np.random.RandomState(seed).randn(6)
        loss, (_, metrics) = measure({"x": jnp.asarray(x, jnp.float32)}, (), batch, key)
        expected = scale * (value_of(optimum + radius * (x - moved)) - least)
        assert float(loss) == pytest.approx(expected, rel=1e-3)
        distance = np.sqrt(np.mean((x - np.asarray(task.data["optimum"])) ** 2))
        assert float(metrics["distance"]) == pytest.approx(distance, rel=1e-4)


@EACH
def test_the_optimum_costs_nothing_and_what_is_near_it_more(name, key):
    task = function(function=name, data_seed=1)
    batch = task.eval_batch(task.data, "test")

    def loss_of(x):
        return task.loss({"x": x}, (), batch, key)[0]

    loss, best = quick(loss_of), task.data["optimum"]
    assert 0 <= float(loss(best)) < 2e-6
    slope = quick(jax.grad(loss_of))(best)
    assert np.isfinite(slope).all()
    for seed in range(5):
        step = jnp.asarray(np.random.RandomState(seed).randn(32), jnp.float32)
        assert float(loss(best + 1e-3 * step)) > float(loss(best)) + 1e-8
        assert float(loss(best + step)) > 0.01


@EACH
def test_starts_cost_one_on_average(name, key):
    task = function(function=name)
    batch = task.eval_batch(task.data, "meta")
    losses = jax.vmap(
        lambda key: task.loss(task.init(key, task.data)[0], (), batch, key)[0]
    )(jax.random.split(key, 1000))
    assert float(losses.mean()) == pytest.approx(1, rel=0.05)
    assert float(losses.max()) < task.loss_bound


def test_minibatches_move_the_optimum_and_evaluation_does_not(key):
    task = function(noise=0.3)
    draw = jax.vmap(lambda key: task.batch(key, task.data, "train")["moved"])
    offsets = np.asarray(draw(jax.random.split(key, 300)) - task.data["optimum"][None])
    assert np.abs(offsets.mean(axis=0)).max() < 0.1
    assert offsets.std() == pytest.approx(0.3, rel=0.03)
    still = task.eval_batch(task.data, "test")["moved"]
    np.testing.assert_array_equal(still, task.data["optimum"])
    quiet = function()
    moved = quiet.batch(key, quiet.data, "train")["moved"]
    np.testing.assert_array_equal(moved, quiet.data["optimum"])


def test_no_multiplier_depends_on_the_number_of_coordinates():
    for width in (8, 128):
        (spec,) = jax.tree.leaves(function(width=width).specs)
        assert spec.shape == (width,) and mup.update_multiplier(spec, "entrywise") == 1


def test_numbers_are_data_and_the_function_is_in_the_program():
    one, other = function(), function(noise=0.5, data_seed=2)
    assert one.loss is other.loss and one.batch is other.batch
    assert (one.data["optimum"] != other.data["optimum"]).all()
    assert one.loss is not function(function="ackley").loss
    assert one.name == "rosenbrock-32"
    assert other.name == "rosenbrock-32-noise-0.5-data-2"
    assert function(function="styblinski_tang").name == "styblinski-tang-32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"function": "sphere"}, "`function` must be `rosenbrock` or `rastrigin` or `st"),
        ({"width": 1}, "`width` must be an integer of at least 2, got 1"),
        ({"noise": -0.1}, "`noise` must not be negative, got -0.1"),
        ({"data_seed": -1}, "`data_seed` must be an integer from 0 to 4294967295, got"),
    ],
)
def test_bad_options(unchecked_types, options, message):
    with pytest.raises(ConfigError) as error:
        function(**options)
    assert str(error.value).startswith(message)
