"""The laws of the estimators, against the exact gradient of the whole run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import quadratic
from unrolls import SIGMA, T, exact_gradient, inert, learnable_sgd, make_unroll

from lopt.estimators import ESTIMATORS


def mean_gradient(name: str, length: int, key, num_pairs: int = 1000, calls: int = 48):
    """The estimates' mean over calls, after every pair's first, cut run."""
    task, inner = make_unroll(length)
    theta = learnable_sgd().init(key)
    estimator = ESTIMATORS[name](inner, num_pairs=num_pairs, sigma=SIGMA)
    state = estimator.init(theta, key, task.data)

    def step(state, key):
        gradient, state = estimator.estimate(theta, state, key, task.data, jnp.float32(0))
        return state, gradient.grad["log_rate"]

    keys = jax.random.split(jax.random.fold_in(key, 1), T // length + calls)
    _, gradients = jax.jit(lambda s, k: jax.lax.scan(step, s, k))(state, keys)
    return np.asarray(jnp.mean(gradients[T // length :], axis=0))


@pytest.mark.parametrize("name", ["es", "pes", "nres"])
def test_full_run_truncation_is_unbiased(name, key):
    exact = exact_gradient(T, key)
    np.testing.assert_allclose(mean_gradient(name, T, key), exact, rtol=0.03)


@pytest.mark.parametrize("length", [2, 4, 6])
@pytest.mark.parametrize("name", ["pes", "nres"])
def test_persistent_estimators_are_unbiased(name, length, key):
    exact = exact_gradient(length, key)
    np.testing.assert_allclose(mean_gradient(name, length, key), exact, rtol=0.05)


@pytest.mark.parametrize("length", [2, 4, 6])
def test_truncated_es_is_biased_on_the_same_problem(length, key):
    ratio = mean_gradient("es", length, key) / exact_gradient(length, key)
    assert np.min(ratio) < 0.9, ratio


@pytest.mark.parametrize("name", ["pes", "nres"])
def test_first_truncation_is_that_of_es(name, key):
    task, inner = make_unroll(4)
    theta = learnable_sgd().init(key)
    gradients = []
    for estimator in (ESTIMATORS["es"], ESTIMATORS[name]):
        estimator = estimator(inner, num_pairs=8, sigma=SIGMA)
        state = estimator.init(theta, key, task.data)
        gradients.append(
            estimator.estimate(theta, state, key, task.data, jnp.float32(0))[0].grad
        )
    np.testing.assert_array_equal(gradients[0]["log_rate"], gradients[1]["log_rate"])


@pytest.mark.parametrize("name", ["pes", "nres"])
def test_with_whole_runs_every_call_is_that_of_es(name, key):
    task, inner = make_unroll(T)
    theta = learnable_sgd().init(key)
    gradients = []
    for estimator in (ESTIMATORS["es"], ESTIMATORS[name]):
        estimator = estimator(inner, num_pairs=8, sigma=SIGMA)
        state = estimator.init(theta, key, task.data)
        for i in range(3):
            result, state = estimator.estimate(
                theta, state, jax.random.fold_in(key, i), task.data, jnp.float32(0)
            )
        gradients.append(result.grad["log_rate"])
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_meta_parameter_that_does_nothing_gets_exactly_zero(name, key):
    task, inner = make_unroll(
        4, task=quadratic(curvature=(0.5, 2.0), noise=1.0), lopt=inert()
    )
    estimator = ESTIMATORS[name](inner, num_pairs=8, sigma=0.1)
    theta = inert().init(key)
    state = estimator.init(theta, key, task.data)
    for i in range(6):
        result, state = estimator.estimate(
            theta, state, jax.random.fold_in(key, i), task.data, jnp.float32(0)
        )
        np.testing.assert_array_equal(result.grad["unused"], 0.0)


def test_noise_lasts_a_run_and_pairs_are_out_of_step(key):
    task, inner = make_unroll(2)
    estimator = ESTIMATORS["nres"](inner, num_pairs=64, sigma=SIGMA)
    theta = learnable_sgd().init(key)
    state = estimator.init(theta, key, task.data)
    seen_steps = set()
    for i in range(10):
        before = state
        _, state = estimator.estimate(
            theta, state, jax.random.fold_in(key, i), task.data, jnp.float32(0)
        )
        over = np.asarray(before.runs.step[:, 0] >= before.runs.num_steps[:, 0])
        same = np.all(
            np.asarray(before.noise["log_rate"] == state.noise["log_rate"]), axis=1
        )
        np.testing.assert_array_equal(same, ~over)
        assert np.all(state.runs.step[:, 0] == state.runs.step[:, 1])
        np.testing.assert_array_equal(
            state.runs.step[:, 0], np.where(over, 2, before.runs.step[:, 0] + 2)
        )
        seen_steps = {int(s) for s in state.runs.step[:, 0]}
    assert seen_steps == {2, 4, 6, 8, 10, 12}
    assert np.all(state.runs.num_steps == T)


@pytest.mark.parametrize("name", ["es", "pes", "nres"])
def test_divergence_is_charged_and_counted(name, key):
    """A rate that overflows costs the bound; theta's gradient stays finite."""
    lopt = learnable_sgd(rate=1e30)
    task, inner = make_unroll(4, lopt=lopt, meta_split="meta")
    estimator = ESTIMATORS[name](inner, num_pairs=4, sigma=SIGMA)
    theta = lopt.init(key)
    state = estimator.init(theta, key, task.data)
    result, state = estimator.estimate(theta, state, key, task.data, jnp.float32(0))
    np.testing.assert_allclose(result.loss, task.loss_bound, rtol=1e-5)
    assert int(result.num_diverged) == 8
    assert np.all(np.isfinite(result.grad["log_rate"]))
    if name == "es":  # its pairs start anew
        assert np.all(state.step >= state.num_steps)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("option", [{"num_pairs": 0}, {"sigma": 0.0}, {"sigma": -1.0}])
def test_options_out_of_range_are_named(name, option):
    _, inner = make_unroll(4)
    with pytest.raises(ValueError, match=f"estimator.{next(iter(option))}"):
        ESTIMATORS[name](inner, **option)
