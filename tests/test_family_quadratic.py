"""What noisy quadratics are, in plain numpy; their options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_tools import quick

from lopt import mup
from lopt.errors import ConfigError
from lopt.families.quadratic import quadratic


@pytest.mark.parametrize("rotated", [True, False])
def test_curvatures_and_optimum_are_as_stated(key, rotated):
    """The Hessian's eigenvalues fall from the first to the last by `condition`."""
    task = quadratic(width=6, condition=50.0, rotated=rotated, data_seed=3)
    batch = task.eval_batch(task.data, "test")

    def loss(x):
        return task.loss({"x": x}, (), batch, key)[0]

    best = task.data["rotation"] @ task.data["optimum"]
    assert float(loss(best)) == pytest.approx(0, abs=1e-10)
    hessian = np.asarray(jax.hessian(loss)(jnp.zeros(6)), np.float64)
    eigenvalues = np.sort(np.linalg.eigvalsh(hessian))[::-1] * 6
    expected = 50.0 ** -(np.arange(6) / 5)
    np.testing.assert_allclose(eigenvalues, expected / expected.mean(), rtol=1e-4)
    diagonal = np.abs(hessian - np.diag(np.diag(hessian))).max() < 1e-6
    assert diagonal != rotated


def test_loss_and_distance_are_those_of_plain_numpy(key):
    task = quadratic(width=5, noise=0.7)
    data = jax.tree.map(np.asarray, task.data)
    batch = task.batch(key, task.data, "train")
    x = np.random.RandomState(0).randn(5).astype(np.float32)
    loss, (_, metrics) = quick(task.loss)({"x": jnp.asarray(x)}, (), batch, key)
    z = data["rotation"].T @ x
    expected = 0.5 * np.mean(data["curvature"] * (z - np.asarray(batch["moved"])) ** 2)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    distance = np.sqrt(np.mean((z - data["optimum"]) ** 2))
    assert float(metrics["distance"]) == pytest.approx(distance, rel=1e-5)


def test_minibatches_move_the_optimum_and_evaluation_does_not(key):
    task = quadratic(noise=0.3)
    draw = jax.vmap(lambda key: task.batch(key, task.data, "train")["moved"])
    moved = np.asarray(draw(jax.random.split(key, 300)))
    offsets = moved - np.asarray(task.data["optimum"])
    assert np.abs(offsets.mean(axis=0)).max() < 0.1
    assert offsets.std() == pytest.approx(0.3, rel=0.03)
    assert np.abs(np.corrcoef(offsets.T) - np.eye(32)).max() < 0.3
    for split in ("train", "test"):
        still = task.eval_batch(task.data, split)["moved"]
        np.testing.assert_array_equal(still, task.data["optimum"])


def test_starts_cost_one_on_average(key):
    task = quadratic(width=64)
    batch = task.eval_batch(task.data, "meta")
    losses = jax.vmap(
        lambda key: task.loss(task.init(key, task.data)[0], (), batch, key)[0]
    )(jax.random.split(key, 200))
    best = float(jnp.mean(task.data["curvature"] * task.data["optimum"] ** 2))
    # Half of it is the start's, half the optimum's, which is one draw.
    assert float(losses.mean()) == pytest.approx(0.5 + 0.5 * best, rel=0.05)
    assert float(losses.max()) < task.loss_bound


def test_no_multiplier_depends_on_the_number_of_coordinates():
    for width in (8, 128):
        (spec,) = jax.tree.leaves(quadratic(width=width).specs)
        assert spec.shape == (width,)
        assert mup.update_multiplier(spec, "entrywise") == 1


def test_numbers_are_data_and_not_in_the_program():
    one, other = quadratic(), quadratic(condition=9.0, noise=0.0, rotated=False)
    assert one.loss is other.loss and one.batch is other.batch
    assert one.name == "quadratic-32-condition-100-noise-0.1"
    assert other.name == "quadratic-32-condition-9-noise-0-aligned"
    assert quadratic(data_seed=2).name == one.name + "-data-2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "`width` must be an integer of at least 1, got 0"),
        ({"condition": 0.5}, "`condition` must be a number of at least 1, got 0.5"),
        ({"noise": -0.1}, "`noise` must not be negative, got -0.1"),
        ({"rotated": 1}, "`rotated` must be `true` or `false`, got 1"),
        ({"data_seed": -1}, "`data_seed` must be an integer from 0 to 4294967295, got"),
    ],
)
def test_bad_options(unchecked_types, options, message):
    with pytest.raises(ConfigError) as error:
        quadratic(**options)
    assert str(error.value).startswith(message)
