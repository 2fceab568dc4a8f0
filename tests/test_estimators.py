"""The laws of the estimators, against the exact gradient of the whole run.

Where a test is statistical, its error is measured over independent copies: a mean must
lie within four standard errors, and these must be small enough to tell.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import quadratic
from unrolls import (
    T,
    calls,
    estimator_of,
    exact_gradient,
    half_inert,
    inert,
    learnable_sgd,
    make_unroll,
    mean_and_error,
    replicates,
)

from lopt.estimators import ESTIMATORS

SMOOTHING = 2e-3
"""What smoothing by ε may change of the gradient here, relatively."""


def estimate(name: str, length: int, key, *, meta_loss="mean", **options):
    """The mean gradient over the truncations of whole runs, and its standard error.

    The first run of every particle is cut short, and is not counted.
    """
    task, inner = make_unroll(length, meta_loss=meta_loss)
    theta = learnable_sgd().init(key)
    estimator = estimator_of(name, inner, 64, **options)
    num = T // length
    grads = replicates(estimator, task, theta, key, skip=num, num=num, copies=16)
    return mean_and_error(grads["log_rate"].mean(axis=1))


@pytest.mark.parametrize(
    "name, length, meta_loss, options",
    [
        ("es", T, "mean", {}),
        ("mixed", T, "mean", {}),
        ("full_es", 4, "mean", {}),
        ("forward_gradient", 4, "mean", {}),
        ("pes", 4, "mean", {}),
        ("pes", 4, "last", {}),
        ("gpes", 2, "mean", {"period": 4}),
        ("gpes", 2, "last", {"period": 4}),
        ("nres", 4, "mean", {}),
        ("nres", 4, "last", {}),
    ],
)
def test_unbiased(name, length, meta_loss, options, key):
    """Of the whole run; the loss of its last step alone, too."""
    exact = exact_gradient(length, key, meta_loss=meta_loss)
    mean, error = estimate(name, length, key, meta_loss=meta_loss, **options)
    assert np.all(error < 0.06 * np.max(np.abs(exact))), (error, exact)
    tolerance = 4 * error + SMOOTHING * np.max(np.abs(exact))
    assert np.all(np.abs(mean - exact) < tolerance), (mean, exact, error)


@pytest.mark.parametrize("name", ["es", "mixed"])
def test_truncated_estimators_are_biased_on_the_same_problem(name, key):
    exact = exact_gradient(4, key)
    mean, error = estimate(name, 4, key)
    bias = np.abs(mean - exact) / (error + SMOOTHING * np.abs(exact))
    assert np.max(bias) > 8, (mean, exact, error)


def test_ranks_give_the_direction_but_not_the_length(key):
    exact = exact_gradient(4, key)
    mean, error = estimate("nes", 4, key)
    unit, norm = exact / np.linalg.norm(exact), np.linalg.norm(mean)
    np.testing.assert_allclose(mean / norm, unit, atol=4 * np.max(error) / norm)
    assert np.max(error) < 0.02 * norm
    assert norm > 10 * np.linalg.norm(exact)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_meta_parameter_that_does_nothing_gets_exactly_zero(name, key):
    """On a stochastic task; it is all that is perturbed."""
    task, inner = make_unroll(4, task=quadratic(curvature=(0.5, 2.0), noise=1.0))
    task, inner = make_unroll(4, task=task, lopt=inert())
    theta = inert().init(key)
    estimator = estimator_of(name, inner, 4)
    results, _ = jax.jit(lambda k: calls(estimator, task, theta, k, 6))(key)
    np.testing.assert_array_equal(results.grad["unused"], 0.0)


@pytest.mark.parametrize("name", ["tbptt", "full_gradient", "mixed"])
def test_backpropagation_gives_it_zero_beside_others_too(name, key):
    task, inner = make_unroll(4, lopt=half_inert())
    theta = half_inert().init(key)
    estimator = estimator_of(name, inner, 4)
    results, _ = jax.jit(lambda k: calls(estimator, task, theta, k, 4))(key)
    np.testing.assert_array_equal(results.grad["unused"], 0.0)
    assert np.all(results.grad["log_rate"] != 0.0)


@pytest.mark.parametrize("name", ["nres", "full_es", "forward_gradient"])
def test_random_directions_give_it_zero_on_average(name, key):
    """Beside others an inert meta-parameter is credited with what those did."""
    task, inner = make_unroll(4, lopt=half_inert())
    estimator = estimator_of(name, inner, 100)
    theta = half_inert().init(key)
    grads = replicates(estimator, task, theta, key, skip=3, num=3, copies=16)
    mean, error = mean_and_error(grads["unused"].mean(axis=1))
    assert np.all(np.abs(mean) < 4 * error) and np.all(error > 0)


def variance(num_truncations: int, key, **options):
    """Of one pair's gradient, summed over theta; K is 4, the run as long as it takes."""
    task = quadratic(curvature=(0.5, 2.0), noise=1.0)
    task, inner = make_unroll(4, task=task, num_steps=4 * num_truncations)
    theta = learnable_sgd().init(key)
    estimator = estimator_of("gpes", inner, 1, **options)
    num = num_truncations
    grads = replicates(estimator, task, theta, key, skip=num, num=num, copies=200)
    return grads["log_rate"].reshape(-1, 2).var(axis=0).sum()


def test_variance_grows_with_the_truncations_unless_noise_is_reused(key):
    """The published order: PES > GPES > NRES, and only PES keeps growing."""
    few, many = 2, 16
    pes, gpes, nres = (
        [variance(n, key, period=period) for n in (few, many)] for period in (1, 4, None)
    )
    assert pes[1] > 3 * pes[0]
    assert nres[1] < 1.5 * nres[0]
    assert pes[1] > 2 * gpes[1] > 2 * nres[1]


@pytest.mark.parametrize("name", ["pes", "nres"])
@pytest.mark.parametrize("length", [4, T])
def test_the_first_call_is_that_of_es(name, length, key):
    """And, where a truncation is a whole run, every call."""
    task, inner = make_unroll(length)
    theta = learnable_sgd().init(key)
    es, other = (
        calls(estimator_of(n, inner), task, theta, key, 4)[0] for n in ("es", name)
    )
    same = slice(None) if length == T else slice(1)
    np.testing.assert_array_equal(es.grad["log_rate"][same], other.grad["log_rate"][same])


@pytest.mark.parametrize("name", ["es", "pes", "nres", "full_es", "nes"])
def test_divergence_is_charged_and_counted(name, key):
    """A rate that overflows costs the bound; theta's gradient stays finite."""
    lopt = learnable_sgd(rate=1e30)
    task, inner = make_unroll(4, lopt=lopt, meta_split="meta")
    estimator = estimator_of(name, inner, 4)
    results, state = calls(estimator, task, lopt.init(key), key, 1)
    np.testing.assert_allclose(results.loss, task.loss_bound, rtol=1e-5)
    assert int(results.num_diverged[0]) == 8
    assert np.all(np.isfinite(results.grad["log_rate"]))
    if name == "es":  # its pairs start anew
        assert np.all(state.step >= state.num_steps)
    if name == "nres":  # its pairs go on
        assert np.all(state.runs.step == 4)


def test_inner_steps_are_counted(key):
    task, inner = make_unroll(4)
    theta = learnable_sgd().init(key)
    for name in ESTIMATORS:
        estimator = estimator_of(name, inner, 3)
        shape = jax.eval_shape(lambda k, e=estimator: calls(e, task, theta, k, 1), key)
        assert shape[0].num_steps.dtype == jnp.int32
    for name, steps in [("nres", 4), ("tbptt", 4), ("mixed", 4), ("full_es", T)]:
        results, _ = calls(estimator_of(name, inner, 3), task, theta, key, 1)
        assert int(results.num_steps[0]) == 6 * steps
