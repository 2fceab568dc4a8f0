"""Learning curves against descent that is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import gradient_descent, linear_regression, quadratic, quadratic_descent

from lopt import prng
from lopt.evaluation.curves import NEVER, NUM_POINTS, curves, point_steps

PLAIN = gradient_descent()
RATE = {"rate": jnp.asarray(0.1)}


def run_curves(task, lopt, thetas, keys, num_steps, read_every=1, read_test=True):
    run = jax.jit(curves(task, lopt))
    limits = jnp.asarray(num_steps, jnp.int32), jnp.asarray(read_every, jnp.int32)
    return run(thetas, keys, *limits, jnp.asarray(read_test), task.data)


def lanes(theta, count):
    return jax.tree.map(lambda x: jnp.repeat(x[None], count, axis=0), theta)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("num_steps", [7, 100, 250])
def test_curves_of_gradient_descent_are_exact(num_steps):
    task = quadratic(curvature=(0.5, 1.0, 2.0))
    found = run_curves(task, PLAIN, lanes(RATE, 2), keys(2), num_steps)
    leaf = task.data["valid"]
    for lane in range(2):
        init_key = prng.split(keys(2)[lane], 3)[0]
        w = task.init(init_key, task.data)[0]["w"]
        for point in (0, 49, 99):
            steps = point_steps(num_steps)[point]
            offset = quadratic_descent(task.data, w, 0.1, steps) - leaf["center"]
            expected = 0.1 + 0.5 * jnp.sum(leaf["curvature"] * offset**2)
            for curve in (found.readings.valid_loss, found.readings.test_loss):
                np.testing.assert_allclose(curve[point, lane], expected, rtol=1e-4)
    assert not found.diverged.any()


def test_points_of_a_run():
    assert point_steps(500)[:2] == [5, 10]
    assert point_steps(500)[-1] == 500
    assert point_steps(3) == [1] * 33 + [2] * 33 + [3] * 34
    assert len(point_steps(62)) == NUM_POINTS


def test_training_loss_is_the_mean_since_the_last_point():
    task = quadratic(curvature=(1.0,), floor=0.0)
    found = run_curves(task, PLAIN, lanes(RATE, 1), keys(1), 200)
    start = task.init(prng.split(keys(1)[0], 3)[0], task.data)[0]["w"][0]
    # The first reading is at step 2: the losses before steps 1 and 2.
    expected = 0.5 * start**2 * (1 + 0.9**2) / 2
    np.testing.assert_allclose(found.readings.train_loss[0, 0], expected, rtol=1e-5)


def test_lanes_with_one_key_are_paired_and_others_are_not():
    task = linear_regression()
    twice = keys(2)[jnp.array([0, 0, 1])]
    found = run_curves(task, PLAIN, lanes(RATE, 3), twice, 30)
    losses = np.asarray(found.readings.valid_loss)
    np.testing.assert_array_equal(losses[:, 0], losses[:, 1])
    assert (losses[:, 0] != losses[:, 2]).all()


def test_a_diverged_run_is_charged_the_bound():
    task = quadratic(loss_bound=50.0)
    thetas = {"rate": jnp.asarray([0.1, 1e20])}
    found = run_curves(task, PLAIN, thetas, keys(2), 100)
    assert found.diverged.tolist() == [False, True]
    assert (found.readings.valid_loss[5:, 1] == 50.0).all()
    assert (found.readings.valid_loss <= 50.0).all()


def test_what_is_not_read_is_not_there():
    task = quadratic(loss_bound=50.0)
    args = task, PLAIN, lanes(RATE, 1), keys(1), 100
    every, fourth, never = (
        run_curves(*args, read_every, read_test=False).readings.valid_loss[:, 0]
        for read_every in (1, 4, NEVER)
    )
    np.testing.assert_array_equal(fourth[3::4], every[3::4])
    np.testing.assert_array_equal(fourth[4:7], fourth[3:6])
    assert (never == 50.0).all()
    unread = run_curves(*args, read_test=False).readings.test_loss
    assert (unread == 50.0).all()
