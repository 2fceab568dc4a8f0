"""The laws of the estimators, against the exact gradient of the whole run.

Where a test is statistical, its error is measured over independent copies: a mean must
lie within four standard errors, and these must be small enough to tell.
"""

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
    make_unroll,
    mean_and_error,
    replicates,
    two_rates,
)

from lopt.estimators import ESTIMATORS

SMOOTHING = 2e-3
"""What smoothing by ε may change of the gradient here, relatively."""


def estimate(name: str, length: int, key, *, meta_loss="mean", **options):
    """The mean gradient over the truncations of whole runs, and its standard error.

    The first run of every particle is cut short, and is not counted.
    """
    task, inner = make_unroll(length, meta_loss=meta_loss, lopt=half_inert())
    theta = half_inert().init(key)
    estimator = estimator_of(name, inner, 64, **options)
    num = T // length
    grads = replicates(estimator, task, theta, key, skip=num, num=num, copies=16)
    return {k: mean_and_error(g.mean(axis=1)) for k, g in grads.items()}


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
        ("nres", 4, "mean", {}),
        ("nres", 4, "last", {}),
    ],
)
def test_unbiased(name, length, meta_loss, options, key):
    """For the whole run; and for its last step alone.

    A meta-parameter that does nothing, beside others that do, is credited with what
    those did: random directions give it zero on average only.
    """
    exact = exact_gradient(length, key, meta_loss=meta_loss)
    result = estimate(name, length, key, meta_loss=meta_loss, **options)
    (mean, error), (unused, unused_error) = result["log_rate"], result["unused"]
    size = np.max(np.abs(exact))
    assert np.all(error < 0.08 * size), (error, exact)
    assert np.all(np.abs(mean - exact) < 4 * error + SMOOTHING * size), (mean, exact)
    assert np.all(np.abs(unused) <= 4 * unused_error)
    assert np.all((unused_error > 0) == (name != "mixed"))


@pytest.mark.parametrize("name", ["es", "mixed"])
def test_truncated_estimators_are_biased_on_the_same_problem(name, key):
    exact = exact_gradient(4, key)
    mean, error = estimate(name, 4, key)["log_rate"]
    bias = np.abs(mean - exact) / (error + SMOOTHING * np.abs(exact))
    assert np.max(bias) > 8, (mean, exact, error)


def test_ranks_give_the_direction_but_not_the_length(key):
    exact = exact_gradient(4, key)
    mean, error = estimate("nes", 4, key)["log_rate"]
    unit, norm = exact / np.linalg.norm(exact), np.linalg.norm(mean)
    assert np.max(error) < 0.03 * norm
    np.testing.assert_allclose(mean / norm, unit, atol=4 * np.max(error) / norm)
    assert norm > 10 * np.linalg.norm(exact)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_meta_parameter_that_does_nothing_gets_exactly_zero(name, key):
    """On a stochastic task; it is all that is perturbed. Inner steps are counted."""
    task = quadratic(curvature=(0.5, 2.0), noise=1.0)
    task, inner = make_unroll(4, task=task, lopt=inert())
    estimator = estimator_of(name, inner, 4)
    results, _ = calls(estimator, task, inert().init(key), key, 6)
    np.testing.assert_array_equal(results.grad["unused"], 0.0)
    whole = name in ("full_es", "full_gradient", "nes")
    np.testing.assert_array_equal(results.num_steps, 8 * (T if whole else 4))
    np.testing.assert_array_equal(results.num_diverged, 0)


def variance(num_truncations: int, period: int | None, key):
    """Of one pair's gradient, summed over theta; K is 4, the run as long as it takes."""
    task = quadratic(curvature=(0.5, 2.0), noise=3.0, loss_bound=1e4)
    task, inner = make_unroll(4, task=task, num_steps=4 * num_truncations)
    theta = two_rates().init(key)
    estimator = estimator_of("gpes", inner, 1, period=period)
    num, copies = num_truncations, 3200 // num_truncations
    grads = replicates(estimator, task, theta, key, skip=num, num=num, copies=copies)
    return grads["log_rate"].reshape(-1, 2).var(axis=0).sum()


def test_variance_grows_with_the_truncations_unless_noise_is_reused(key):
    """The published order: PES > GPES > NRES; and PES grows, NRES does not."""
    pes, gpes, nres = (
        [variance(n, period, key) for n in (2, 16)] for period in (1, 4, None)
    )
    assert pes[1] > 2.5 * pes[0]
    assert nres[1] < 2 * nres[0]
    assert pes[1] > 1.5 * gpes[1] > 1.5 * 1.2 * nres[1]
