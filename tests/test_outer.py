"""Theta from step to step: its average, and meta-gradients on one scale."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quadratic
from trainers import entry, make_trainer
from unrolls import two_rates

from lopt.outer import SCALE_DECAY, averaged, normalized, task_scales

DECAY = 0.6


@pytest.fixture(scope="module")
def paths():
    """Theta [steps, rates] after every outer step on two tasks, and the last state.

    By whether tasks are normalized, and by what the first one's meta-loss is multiplied
    with: its `meta` split has so many times the curvature, its `train` split has not.
    """
    tasks = [quadratic(curvature=c, floor=0.0) for c in ((0.5, 2.0), (1.0, 0.3))]
    found = {}
    for normalize in (True, False):
        trainer = make_trainer(
            two_rates(), [*map(entry, tasks)], num_pairs=2, meta_transform="raw"
        )
        trainer = replace(
            trainer,
            outer_optimizer=optax.sgd(0.01),
            normalize_tasks=normalize,
            average=DECAY,
        )
        step = jax.jit(trainer.step)
        for factor in (1.0, 1000.0):
            (data,) = trainer.datas
            first_only = jnp.asarray([[factor], [1.0]])
            leaf = data["meta"]
            leaf = {**leaf, "curvature": leaf["curvature"] * first_only}
            state, thetas = trainer.init(jax.random.key(0)), []
            for _ in range(5):
                state, _ = step(state, ({**data, "meta": leaf},))
                thetas.append(np.asarray(state.theta["log_rate"]))
            found[normalize, factor] = np.stack(thetas), state
    return found


def test_the_scale_of_one_task_does_not_matter_where_tasks_are_normalized(paths):
    """A meta-loss a thousand times larger leaves the path of theta as it is."""
    paths = {key: thetas for key, (thetas, _) in paths.items()}
    moved = np.ptp(paths[True, 1.0], axis=0).max()
    difference = np.abs(paths[True, 1000.0] - paths[True, 1.0]).max()
    assert difference < 1e-3 * moved
    difference = np.abs(paths[False, 1000.0] - paths[False, 1.0]).max()
    assert difference > moved


def test_theta_is_averaged_without_a_bias_towards_its_start(paths):
    for thetas, state in paths.values():
        weights = DECAY ** np.arange(len(thetas))[::-1]
        expected = weights @ thetas / np.sum(weights)
        np.testing.assert_allclose(state.average["log_rate"], expected, rtol=1e-5)
    start = {"a": jnp.asarray(9.0)}
    first = averaged(start, {"a": jnp.asarray(-3.0)}, jnp.asarray(1), 0.999)
    np.testing.assert_allclose(first["a"], -3.0, rtol=1e-5)


def test_normalized_meta_gradients():
    """By hand: the running RMS of norms, which one that is not finite does not enter."""
    rows = np.asarray([[3.0, 4.0], [np.nan, 1.0], [6.0, 8.0], [0.3, 0.4]])
    norms, decay = [5.0, 10.0, 0.5], SCALE_DECAY
    scales, seen = task_scales(2), []
    for row in rows:
        grads = {"a": jnp.asarray([[row[0]], [0.0]]), "b": jnp.asarray([row[1], 0.0])}
        got, scales = normalized(grads, scales)
        np.testing.assert_array_equal(got["b"][1], 0.0)
        if np.isnan(row[0]):
            assert np.isnan(got["a"][0, 0])
            continue
        seen.append(norms[len(seen)])
        weights = decay ** np.arange(len(seen))[::-1]
        rms = np.sqrt(np.sum(weights * np.square(seen)) / np.sum(weights))
        np.testing.assert_allclose(got["a"][0, 0], row[0] / rms, rtol=1e-5)
        np.testing.assert_allclose(got["b"][0], row[1] / rms, rtol=1e-5)
    np.testing.assert_array_equal(scales.number, [3, 4])
