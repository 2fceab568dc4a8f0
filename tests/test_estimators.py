"""The laws of the estimators, against the exact gradient of the whole run."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quadratic

from lopt.base import LearnedOptimizer
from lopt.estimators import ESTIMATORS
from lopt.unroll import unroll

T = 12
SIGMA = 0.02


def learnable_sgd(rate: float = 0.2) -> LearnedOptimizer:
    """Gradient descent with rates exp(log_rate), one a coordinate."""

    def init(key):
        del key
        return {"log_rate": jnp.log(jnp.asarray([rate, rate]))}

    def opt_fn(theta, *, specs=None, num_steps=None):
        del specs, num_steps
        rates = jnp.exp(theta["log_rate"])

        def update(grads, state, params=None, **extra):
            del params, extra
            return jax.tree.map(lambda g: -rates * g, grads), state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    return LearnedOptimizer(init, opt_fn)


def inert() -> LearnedOptimizer:
    """Gradient descent whose meta-parameter does nothing."""

    def opt_fn(theta, *, specs=None, num_steps=None):
        del theta, specs, num_steps
        return optax.with_extra_args_support(optax.sgd(0.1))

    return LearnedOptimizer(lambda key: {"unused": jnp.ones(3)}, opt_fn)


def fixed_start(noise: float = 0.0):
    task = quadratic(curvature=(0.5, 2.0), noise=noise)
    start = jnp.asarray([2.0, -1.5])
    return replace(task, init=lambda key, data: ({"w": start}, ()))


def make_unroll(length: int, *, task=None, lopt=None, num_steps: int = T, **options):
    task = fixed_start() if task is None else task
    lopt = learnable_sgd() if lopt is None else lopt
    options = {"meta_split": "train", "meta_every": 1, "meta_transform": "raw"} | options
    return task, unroll(
        task, lopt, length=length, min_steps=num_steps, max_steps=num_steps, **options
    )


def exact_gradient(length: int, key):
    """jax.grad of the mean loss of one whole run, by the unroll itself."""
    task, inner = make_unroll(length)
    theta = learnable_sgd().init(key)

    def mean_loss(theta):
        run = inner.init(theta, key, task.data)
        means = []
        for _ in range(T // length):
            losses, run = inner.advance(theta, run, key, task.data)
            means.append(jnp.mean(losses))
        return jnp.mean(jnp.stack(means))

    return np.asarray(jax.grad(mean_loss)(theta)["log_rate"])


def mean_gradient(name: str, length: int, key, num_pairs: int = 1000, calls: int = 48):
    """The estimates' mean over calls, after every pair's first, cut run."""
    task, inner = make_unroll(length)
    theta = learnable_sgd().init(key)
    estimator = ESTIMATORS[name](inner, num_pairs=num_pairs, sigma=SIGMA)
    state = estimator.init(theta, key, task.data)

    def step(state, key):
        gradient, state = estimator.estimate(theta, state, key, task.data)
        return state, gradient.grad["log_rate"]

    keys = jax.random.split(jax.random.fold_in(key, 1), T // length + calls)
    _, gradients = jax.jit(lambda s, k: jax.lax.scan(step, s, k))(state, keys)
    return np.asarray(jnp.mean(gradients[T // length :], axis=0))


def test_unroll_is_gradient_descent(key):
    """The losses of a truncation are those of the recursion, step by step."""
    task, inner = make_unroll(4)
    theta = learnable_sgd().init(key)
    run = inner.init(theta, key, task.data)
    losses, run = inner.advance(theta, run, key, task.data)
    w = np.asarray([2.0, -1.5])
    leaf = {name: np.asarray(x) for name, x in task.data["train"].items()}
    expected = []
    for _ in range(4):
        offset = w - leaf["center"]
        expected.append(0.1 + 0.5 * np.sum(leaf["curvature"] * offset**2))
        w = w - 0.2 * leaf["curvature"] * offset
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(run.params["w"], w, rtol=1e-5)
    assert int(run.step) == 4 and int(run.num_steps) == T


def test_meta_loss_is_read_on_the_whole_split_after_the_steps(key):
    task, inner = make_unroll(4, meta_split="meta", meta_every=2, meta_transform="log")
    theta = learnable_sgd().init(key)
    run = inner.init(theta, key, task.data)
    losses, run = inner.advance(theta, run, key, task.data)
    batch = task.eval_batch(task.data, "meta")
    last = task.loss(run.params, (), batch, key)[0]
    assert losses.shape == (2,)
    np.testing.assert_allclose(losses[-1], jnp.log(last), rtol=1e-5)


@pytest.mark.parametrize("low, high", [(100, 1000), (130, 130)])
def test_run_lengths_are_log_uniform_multiples_of_the_truncation(low, high, key):
    task, inner = make_unroll(50)
    inner = unroll(task, learnable_sgd(), length=50, min_steps=low, max_steps=high)
    theta = learnable_sgd().init(key)
    keys = jax.random.split(key, 4000)
    lengths = jax.vmap(lambda k: inner.init(theta, k, task.data).num_steps)(keys)
    rounded = 50 * np.ceil(low / 50)
    assert np.all(lengths % 50 == 0)
    assert lengths.min() >= rounded and lengths.max() == np.ceil(high / 50) * 50
    if low < high:  # the median of a log-uniform law, up to rounding upward
        assert 300 <= np.median(lengths) <= 400


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
        gradients.append(estimator.estimate(theta, state, key, task.data)[0].grad)
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
                theta, state, jax.random.fold_in(key, i), task.data
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
            theta, state, jax.random.fold_in(key, i), task.data
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
        _, state = estimator.estimate(theta, state, jax.random.fold_in(key, i), task.data)
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


@pytest.mark.parametrize("transform", ["raw", "log"])
def test_divergence_is_charged_counted_and_restarted(transform, key):
    """A rate that overflows costs the bound; theta's gradient stays finite."""
    options = {"meta_split": "meta", "meta_every": 1, "meta_transform": transform}
    lopt = learnable_sgd(rate=1e30)
    task, inner = make_unroll(4, lopt=lopt, **options)
    estimator = ESTIMATORS["pes"](inner, num_pairs=4, sigma=SIGMA)
    theta = lopt.init(key)
    state = estimator.init(theta, key, task.data)
    result, state = estimator.estimate(theta, state, key, task.data)
    worst = task.loss_bound if transform == "raw" else np.log(task.loss_bound)
    np.testing.assert_allclose(result.loss, worst, rtol=1e-5)
    assert int(result.num_diverged) == 8
    assert np.all(np.isfinite(result.grad["log_rate"]))
    assert np.all(state.runs.step >= state.runs.num_steps)


def test_a_finite_loss_above_the_bound_counts_as_the_bound(key):
    """At rate 3 the loss grows a hundredfold a step, and stays finite."""
    lopt = learnable_sgd(rate=3.0)
    task, inner = make_unroll(6, lopt=lopt)
    theta = lopt.init(key)
    losses, run = inner.advance(theta, inner.init(theta, key, task.data), key, task.data)
    assert np.all(np.isfinite(run.params["w"]))
    assert losses[0] < task.loss_bound
    np.testing.assert_array_equal(losses[-3:], task.loss_bound)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("option", [{"num_pairs": 0}, {"sigma": 0.0}, {"sigma": -1.0}])
def test_options_out_of_range_are_named(name, option):
    _, inner = make_unroll(4)
    with pytest.raises(ValueError, match=f"estimator.{next(iter(option))}"):
        ESTIMATORS[name](inner, **option)


def test_truncation_must_be_divided_by_readings():
    with pytest.raises(ValueError, match="meta_every"):
        make_unroll(5, meta_every=2)
