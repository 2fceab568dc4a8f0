"""Estimators against books kept by hand, on runs without chance: to rounding errors."""

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
    fixed_start,
    lucky_start,
    make_unroll,
    two_rates,
    two_rates_of_the_start,
)

from lopt.base import LearnedOptimizer
from lopt.errors import ConfigError
from lopt.estimators.mixed import mixture
from lopt.estimators.nes import utilities
from lopt.estimators.noise import Gaussian, as_theta


def closed_form(rates, first: int, last: int):
    """Losses of gradient descent from `fixed_start` before steps first … last − 1.

    Args:
      rates: [2, steps], a rate for each coordinate and step from the run's start.
      first: step.
      last: step.
    """
    task = fixed_start()
    offset = np.asarray(task.init(None, task.data)[0]["w"] - task.data["train"]["center"])
    curvature, losses = np.asarray([0.5, 2.0]), []
    for t in range(last):
        losses.append(0.1 + 0.5 * np.sum(curvature * offset**2))
        offset = offset * (1 - rates[:, t] * curvature)
    return np.asarray(losses[first:])


@pytest.mark.parametrize("period", [1, 2, None])
@pytest.mark.parametrize("meta_loss", ["mean", "last"])
def test_each_truncation_is_credited_with_the_noise_of_its_own_run(
    period, meta_loss, key
):
    """Seven calls of one pair: its cut run, whole ones, and the seams between them."""
    length, sigmas = 2, {"default": 0.02, "log_rate": 0.1}
    task, inner = make_unroll(length, meta_loss=meta_loss)
    theta = two_rates().init(key)
    options = {"sigma": sigmas, "period": period, "num_pairs": 1}
    estimator = estimator_of("gpes", inner, **options)
    results, states = calls(estimator, task, theta, key, 14)
    noises = np.asarray(states.noise[:, 0], np.float64)
    runs = states.runs
    steps, lengths = (np.asarray(x[:, 0, 0]) for x in (runs.step, runs.num_steps))
    start, ends = 0, 0
    for i in range(14):
        if steps[i] == length:
            start = i
        used = noises[start : i + 1]
        renewed = [j for j in range(len(used)) if j % (period or 99) == 0]
        for j in range(len(used)):  # ε changes when it is due, and only then
            assert np.array_equal(used[j], used[j - 1]) == (j not in renewed) or j == 0
        credit = sum(used[j] for j in renewed) / 0.1**2
        sides = []
        for sign in (1, -1):
            logs = np.asarray(theta["log_rate"]) + sign * np.repeat(used, length, axis=0)
            losses = closed_form(np.exp(logs).T, steps[i] - length, steps[i])
            is_last = steps[i] == lengths[i]
            last = losses[-1] * lengths[i] / length if is_last else 0.0
            sides.append({"mean": losses.mean(), "last": last}[meta_loss])
        expected = 0.5 * (sides[0] - sides[1]) * credit
        np.testing.assert_allclose(
            results.grad["log_rate"][i], expected, rtol=2e-3, atol=2e-3
        )
        ends += steps[i] == lengths[i]
    assert ends >= 2


@pytest.mark.parametrize("meta_loss", ["mean", "last"])
def test_forward_gradients_of_a_run_sum_to_its_slope(meta_loss, key):
    """The mean over a run is (∇L·v) v, v the run's own."""
    task, inner = make_unroll(4, meta_loss=meta_loss)
    theta = two_rates().init(key)
    estimator = estimator_of("forward_gradient", inner, num_runs=1)
    results, states = calls(estimator, task, theta, key, 8)
    exact = exact_gradient(4, key, meta_loss=meta_loss)
    steps = np.asarray(states.runs.step[:, 0])
    first = int(np.argmax(steps[1:] <= steps[:-1])) + 1  # after the run that was cut
    directions = np.asarray(states.direction)[first : first + 3, 0]
    assert np.array_equal(steps[first : first + 3], [4, 8, T])
    assert np.all(directions == directions[0])
    got = np.mean(results.grad["log_rate"][first : first + 3], axis=0)
    v = directions[0]
    np.testing.assert_allclose(got, np.dot(exact, v) * v, rtol=1e-4)


@pytest.mark.parametrize("rematerialize", ["nothing", "steps", "stretches"])
def test_backpropagation_is_exact(rematerialize, key):
    """Of every truncation for `tbptt`, of the whole run for `full_gradient`."""
    task, inner = make_unroll(4)
    theta, exact = two_rates().init(key), exact_gradient(4, key)
    options = {"rematerialize": rematerialize}
    whole = estimator_of("full_gradient", inner, 1, **options)
    results, _ = calls(whole, task, theta, key, 2)
    np.testing.assert_allclose(results.grad["log_rate"], [exact, exact], rtol=1e-5)
    truncated = estimator_of("tbptt", inner, num_runs=1, **options)
    results, states = calls(truncated, task, theta, key, 7)

    def loss(theta, run):
        return inner.advance(theta, run, key, task.data)[0].loss

    for i in range(1, 7):
        run = jax.tree.map(lambda x, i=i: x[i - 1, 0], states)
        if run.step >= run.num_steps:
            run = inner.init(theta, key, task.data, jnp.int32(T))
        np.testing.assert_allclose(
            results.grad["log_rate"][i],
            jax.grad(loss)(theta, run)["log_rate"],
            rtol=1e-5,
        )
    sums = results.grad["log_rate"][1:4].mean(axis=0)
    assert np.min(sums / exact) < 0.7  # biased, here by a third and more


@pytest.mark.parametrize("name", ["full_gradient", "forward_gradient"])
def test_what_theta_does_at_the_start_of_a_run_counts(name, key):
    """Rates that are read once, when a run starts: the gradient is the same."""
    task, inner = make_unroll(4, lopt=two_rates_of_the_start())
    theta, exact = two_rates().init(key), exact_gradient(4, key)
    estimator = estimator_of(name, inner, num_runs=1)
    results, states = calls(estimator, task, theta, key, 8)
    grads = np.asarray(results.grad["log_rate"])
    if name == "full_gradient":
        np.testing.assert_allclose(grads, [exact] * 8, rtol=1e-5)
        return
    steps = np.asarray(states.runs.step[:, 0])
    first = int(np.argmax(steps[1:] <= steps[:-1])) + 1
    v = np.asarray(states.direction)[first, 0]
    got = grads[first : first + 3].mean(axis=0)
    np.testing.assert_allclose(got, np.dot(exact, v) * v, rtol=1e-4)


def test_whole_runs_end_where_they_end(key):
    """Runs of 4, 8 and 12 steps side by side, as tasks of one group are."""
    task, inner = make_unroll(4, min_steps=4)
    theta = two_rates().init(key)
    estimator = estimator_of("full_gradient", inner, num_runs=1)
    keys = jax.random.split(key, 8)
    results, _ = jax.vmap(lambda k: calls(estimator, task, theta, k, 1))(keys)
    lengths = np.asarray(results.num_steps[:, 0])
    assert set(lengths) == {4, 8, T}
    exact = {n: exact_gradient(4, key, num_steps=n) for n in (4, 8, T)}
    np.testing.assert_allclose(
        results.grad["log_rate"][:, 0], [exact[n] for n in lengths], rtol=1e-5
    )


def test_each_run_is_clipped(key):
    """Two runs of different slopes: the mean of their unit vectors."""
    task, inner = make_unroll(4, task=quadratic(curvature=(0.5, 2.0)))
    theta = two_rates().init(key)
    raw, cut = (
        calls(estimator_of("tbptt", inner, num_runs=1, clip_norm=c), task, theta, key, 9)
        for c in (0.0, 0.1)
    )
    raw, cut = (np.asarray(r.grad["log_rate"]) for r, _ in (raw, cut))
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.min(norms) < 0.1 < np.max(norms)
    np.testing.assert_allclose(cut, raw * np.minimum(1, 0.1 / norms), rtol=1e-4)
    two = estimator_of("tbptt", inner, num_runs=2, clip_norm=0.01)
    results, _ = calls(two, task, theta, key, 4)
    assert np.all(np.linalg.norm(results.grad["log_rate"], axis=1) <= 0.01 * (1 + 1e-5))


@pytest.mark.parametrize("name", ["tbptt", "full_gradient", "forward_gradient", "mixed"])
def test_diverged_runs_are_left_out_and_restart(name, key):
    """Half of the runs start where the loss overflows; the others' mean remains."""
    length = T if name in ("tbptt", "mixed") else 4
    task, inner = make_unroll(length, task=lucky_start())
    theta, exact = two_rates().init(key), exact_gradient(length, key)
    estimator = estimator_of(name, inner, 8)
    results, states = calls(estimator, task, theta, key, 3)
    assert np.all(results.num_diverged > 0) and np.all(results.num_diverged < 16)
    grads = np.asarray(results.grad["log_rate"])
    assert np.all(np.isfinite(grads))
    if name in ("tbptt", "full_gradient"):
        np.testing.assert_allclose(grads, [exact] * 3, rtol=1e-4)
    if name == "mixed":
        np.testing.assert_allclose(grads, [exact] * 3, rtol=2e-2)
    if name == "forward_gradient":
        lost = np.any(np.asarray(states.runs.params["w"]) > 1e20, axis=-1)
        assert np.all((states.runs.step >= states.runs.num_steps)[lost]) and lost.any()
    alone = estimator_of(name, make_unroll(4, lopt=two_rates(1e30))[1], 2)
    results, states = calls(alone, task, two_rates(1e30).init(key), key, 1)
    assert int(results.num_diverged[0]) == 4
    if name != "full_gradient":
        runs = getattr(states, "runs", states)
        assert np.all(runs.step >= runs.num_steps) and np.any(runs.num_steps > 4)
    assert np.all(np.isfinite(results.grad["log_rate"]))


@pytest.mark.parametrize("name", ["es", "nres", "full_es", "nes"])
def test_divergence_is_charged_and_counted(name, key):
    """A rate that overflows costs the bound; theta's gradient stays finite."""
    lopt = two_rates(rate=1e30)
    task, inner = make_unroll(4, lopt=lopt, meta_split="meta")
    estimator = estimator_of(name, inner, 4)
    results, state = calls(estimator, task, lopt.init(key), key, 1)
    np.testing.assert_allclose(results.loss, task.loss_bound, rtol=1e-5)
    assert int(results.num_diverged[0]) == 8
    np.testing.assert_array_equal(results.grad["log_rate"], 0.0)  # nobody was better
    if name == "es":  # its pairs start anew
        assert np.all(state.step >= state.num_steps)
    if name == "nres":  # its pairs go on
        assert np.all(state.runs.step == 4)


def test_utilities_are_the_published_ones():
    """λ = 4: ln 3 − ln k, not below zero; equal losses share."""
    weights = np.maximum(0, np.log(3) - np.log([1, 2, 3, 4]))
    weights /= weights.sum()
    got = utilities(jnp.asarray([0.3, -1.0, 2.0, 1e9]))
    np.testing.assert_allclose(got, weights[[1, 0, 2, 3]], atol=1e-6)
    tied = utilities(jnp.asarray([5.0, 1.0, 1.0, 1.0]))
    np.testing.assert_allclose(tied, [0, *[weights[:3].mean()] * 3], atol=1e-6)
    assert tied[1] == tied[2] == tied[3]


def test_ranks_see_the_order_of_losses_only(key):
    """Raw or in logarithms; and a common start of any height does not blur them."""
    lopt, norms = two_rates(), []
    for task in (fixed_start(), quadratic(curvature=(0.5, 2.0), floor=1.0)):
        grads = []
        for transform in ("raw", "log"):
            _, inner = make_unroll(
                4, task=task, meta_loss="last", meta_transform=transform
            )
            estimator = estimator_of("nes", inner, 16)
            results, _ = calls(estimator, task, lopt.init(key), key, 4)
            grads.append(np.asarray(results.grad["log_rate"]))
        np.testing.assert_array_equal(*grads)
        norms.append(np.mean(np.linalg.norm(grads[0], axis=1)))
    assert 0.7 < norms[0] / norms[1] < 1.4


def test_the_mixture_weighs_by_inverse_variance():
    random = np.random.RandomState(0)
    first, second = random.randn(2, 5, 3)
    second[:, 2] *= 10
    kept = np.asarray([True, True, False, True, True])
    a = first[kept]
    variances = a.var(axis=0, ddof=1) / 4, second.var(axis=0, ddof=1) / 5
    weights = 1 / variances[0], 1 / variances[1]
    expected = weights[0] * a.mean(axis=0) + weights[1] * second.mean(axis=0)
    expected /= weights[0] + weights[1]
    args = jnp.asarray(np.where(kept[:, None], first, 0)), jnp.asarray(second)
    np.testing.assert_allclose(mixture(*args, jnp.asarray(kept)), expected, rtol=1e-4)
    one = jnp.asarray([True, *[False] * 4])
    np.testing.assert_allclose(mixture(*args, one), second.mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(mixture(*args, one), mixture(*args, ~one & one))


def test_where_backpropagation_has_no_gradient_the_mixture_is_es(key):
    """A derivative that is not a number, of a loss that is one."""
    plain = two_rates()

    def opt_fn(theta, *, specs=None, num_steps=None):
        nothing = jnp.sqrt(0.0 * jnp.sum(theta["log_rate"]))
        return plain.opt_fn({"log_rate": theta["log_rate"] + nothing})

    task, inner = make_unroll(T, lopt=LearnedOptimizer(plain.init, opt_fn))
    results = [
        calls(estimator_of(name, inner, 4), task, plain.init(key), key, 3)[0]
        for name in ("es", "mixed")
    ]
    es, mixed = (np.asarray(r.grad["log_rate"]) for r in results)
    assert np.all(np.abs(es) > 0)
    np.testing.assert_allclose(mixed, es, rtol=1e-5)
    np.testing.assert_array_equal(results[1].num_diverged, 8)


def test_sigma_moves_by_equal_factors(key):
    """Of one draw with one key at the start, half-way and at the end."""
    theta = {"a": {"w": jnp.zeros(3), "b": jnp.zeros(2)}, "c": jnp.zeros(4)}
    start, end = {"a": 0.1, "a/b": 0.2, "default": 0.3}, 0.025
    keys = jax.random.split(key, 2)
    unit = Gaussian(sigma=1.0).draw(theta, keys, jnp.float32(0)).noise
    moving = Gaussian(sigma=start, sigma_end=end)
    for progress in (0.0, 0.5, 1.0):
        noise, score = moving.draw(theta, keys, jnp.float32(progress))
        # In the order of the leaves: a/b [2], a/w [3], c [4].
        first = np.repeat([0.2, 0.1, 0.3], [2, 3, 4])
        sigma = first * (end / first) ** progress
        np.testing.assert_allclose(noise, sigma[None] * np.asarray(unit), rtol=1e-5)
        np.testing.assert_allclose(score, np.asarray(unit) / sigma[None], rtol=1e-5)
    assert as_theta(noise, theta)["a"]["w"].shape == (2, 3)
    np.testing.assert_array_equal(as_theta(noise, theta)["a"]["w"], noise[:, 2:5])


def test_where_sigma_is_zero_theta_stays(key):
    theta = {"a": {"w": jnp.zeros(3), "b": jnp.zeros(2)}, "c": jnp.zeros(4)}
    sigma, keys = {"a/b": 0.0, "default": 0.5}, jax.random.split(key, 2)
    unit = Gaussian(sigma=1.0).draw(theta, keys, jnp.float32(0)).noise
    for end in (None, {"a/b": 0.0, "default": 0.1}):
        gaussian = Gaussian(sigma=sigma, sigma_end=end)
        noise, score = gaussian.draw(theta, keys, jnp.float32(0.0))
        for found, rest in ((noise, 0.5 * unit), (score, unit / 0.5)):
            np.testing.assert_array_equal(found[:, :2], 0)
            np.testing.assert_allclose(found[:, 2:], rest[:, 2:], rtol=1e-6)
    with pytest.raises(ConfigError, match="`sigma` must be above 0 for some"):
        Gaussian(sigma={"default": 0.0})
    with pytest.raises(ConfigError, match="`sigma_end` must be 0 where, and only where"):
        Gaussian(sigma=sigma, sigma_end=0.1).check(theta)
