"""The inner loop, run lengths, and meta-losses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quadratic, quadratic_descent
from unrolls import T, fixed_start, make_unroll, two_rates

from lopt.base import LearnedOptimizer
from lopt.errors import ConfigError
from lopt.unroll import LOG_FLOOR, unroll


def run_losses(inner, task, theta, key, num_steps: int = T):
    """The truncations' parts of one run's meta-loss, and the state at its end."""
    run = inner.init(theta, key, task.data, jnp.int32(num_steps))
    parts = []
    for _ in range(num_steps // inner.length):
        reading, run = inner.advance(theta, run, key, task.data)
        parts.append(float(reading.loss))
    return np.asarray(parts), run


def losses_of_descent(task, steps, rate=0.2):
    """The task's losses after so many steps of gradient descent from its start."""
    start, _ = task.init(None, task.data)
    leaf = task.data["train"]

    def loss(t):
        offset = quadratic_descent(task.data, start["w"], rate, t) - leaf["center"]
        return 0.1 + 0.5 * np.sum(leaf["curvature"] * offset**2)

    return np.asarray([loss(t) for t in steps])


def test_unroll_is_gradient_descent(key):
    """A truncation's loss is the mean of the recursion's, before every step."""
    task, inner = make_unroll(4)
    theta = two_rates().init(key)
    parts, run = run_losses(inner, task, theta, key)
    expected = losses_of_descent(task, range(T)).reshape(-1, 4).mean(axis=1)
    np.testing.assert_allclose(parts, expected, rtol=1e-5)
    start, _ = task.init(None, task.data)
    w = quadratic_descent(task.data, start["w"], 0.2, T)
    np.testing.assert_allclose(run.params["w"], w, rtol=1e-5)
    assert int(run.step) == T and int(run.num_steps) == T


def test_meta_loss_is_read_on_the_whole_split_after_the_steps(key):
    task, inner = make_unroll(4, meta_split="meta", meta_every=2)
    apart = task.data | {"meta": task.data["meta"] | {"center": jnp.asarray([3.0, 1.0])}}
    task = replace(task, data=apart)
    theta = two_rates().init(key)
    run = inner.init(theta, key, task.data, jnp.int32(T))
    reading, run = inner.advance(theta, run, key, task.data)
    start, _ = task.init(None, task.data)
    batch = task.eval_batch(task.data, "meta")
    ends = [quadratic_descent(task.data, start["w"], 0.2, t) for t in (2, 4)]
    losses = [task.loss({"w": w}, (), batch, key)[0] for w in ends]
    np.testing.assert_allclose(reading.loss, np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("length", [2, 4, 6])
@pytest.mark.parametrize("meta_loss", ["mean", "last", "minimum", "rising"])
def test_the_mean_over_truncations_is_the_meta_loss_of_the_run(meta_loss, length, key):
    options = {"meta_split": "meta", "meta_every": 2, "meta_loss": meta_loss}
    rate = 0.95  # one coordinate overshoots: the lowest loss is not the last
    task, inner = make_unroll(length, lopt=two_rates(rate), **options)
    parts, _ = run_losses(inner, task, two_rates(rate).init(key), key)
    steps = np.arange(2, T + 1, 2)
    readings = losses_of_descent(task, steps, rate)
    weights = 0.25 + 3 * (steps / T) ** 3
    expected = {
        "mean": np.mean(readings),
        "last": readings[-1],
        "minimum": np.min(readings),
        "rising": np.sum(weights * readings) / np.sum(weights),
    }[meta_loss]
    np.testing.assert_allclose(np.mean(parts), expected, rtol=1e-5)


def test_the_lowest_reading_is_not_forgotten(key):
    """A loss that grows from the second reading on: the minimum is the first one's."""
    options = {"meta_split": "meta", "meta_every": 1, "meta_loss": "minimum"}
    task, inner = make_unroll(4, lopt=two_rates(rate=1.2), **options)
    parts, run = run_losses(inner, task, two_rates(1.2).init(key), key)
    lowest = np.min(losses_of_descent(task, range(1, T + 1), 1.2))
    np.testing.assert_allclose(parts, [lowest * T / 4, 0.0, 0.0], rtol=1e-5)
    np.testing.assert_allclose(run.best, lowest, rtol=1e-5)


@pytest.mark.parametrize("transform", ["raw", "clipped", "log"])
def test_readings_are_transformed(transform, key):
    """At rate 3 the loss grows a hundredfold a step, and stays finite."""
    task, inner = make_unroll(1, lopt=two_rates(rate=3.0), meta_transform=transform)
    assert task.loss_bound == 100.0
    parts, _ = run_losses(inner, task, two_rates(3.0).init(key), key)
    losses = losses_of_descent(task, range(T), 3.0)
    assert losses[0] < 100.0 < losses[-1]
    clipped = np.minimum(losses, 100.0)
    wanted = {"raw": losses, "clipped": clipped, "log": np.log(clipped)}[transform]
    np.testing.assert_allclose(parts, wanted, rtol=1e-4)


@pytest.mark.parametrize("transform", ["raw", "clipped", "log"])
def test_a_loss_that_is_not_finite_counts_as_the_bound(transform, key):
    options = {"meta_split": "meta", "meta_every": 1, "meta_transform": transform}
    lopt = two_rates(rate=1e30)
    task, inner = make_unroll(4, lopt=lopt, **options)
    theta = lopt.init(key)
    run = inner.init(theta, key, task.data, jnp.int32(T))
    worst = np.log(task.loss_bound) if transform == "log" else task.loss_bound
    for _ in range(2):  # it goes on, and is charged again
        reading, run = inner.advance(theta, run, key, task.data)
        assert bool(reading.diverged)
        np.testing.assert_allclose(reading.loss, worst, rtol=1e-5)


def test_a_loss_of_zero_has_a_logarithm(key):
    task = quadratic(curvature=(0.5, 2.0), floor=0.0)
    center = task.data["train"]["center"]
    task = replace(task, init=lambda key, data: ({"w": center}, ()))
    task, inner = make_unroll(4, task=task, meta_transform="log")
    parts, _ = run_losses(inner, task, two_rates().init(key), key)
    np.testing.assert_allclose(parts, np.log(LOG_FLOOR), rtol=1e-6)


def test_the_optimizer_is_told_the_loss_and_the_length_of_its_run(key):
    """The minibatch's loss before the step; a run may be shorter than the longest."""

    def opt_fn(theta, *, specs=None, num_steps=None):
        def update(grads, told, params=None, *, value):
            updates = jax.tree.map(lambda g: -0.2 * g, grads)
            return updates, (value, jnp.asarray(num_steps, jnp.float32))

        return optax.GradientTransformationExtraArgs(
            lambda params: (jnp.zeros(()), jnp.zeros(())), update
        )

    lopt = LearnedOptimizer(two_rates().init, opt_fn)
    task, inner = make_unroll(4, lopt=lopt)
    _, run = run_losses(inner, task, lopt.init(key), key, num_steps=8)
    assert float(run.opt_state[1]) == 8
    last = losses_of_descent(task, [7])
    np.testing.assert_allclose(run.opt_state[0], last[0], rtol=1e-5)


def lengths_drawn(key, low, high, progress=0.0, **options):
    options = {"length": 50, "min_steps": low, "max_steps": high} | options
    draw = unroll(fixed_start(), two_rates(), **options).draw_num_steps
    keys = jax.random.split(key, 8000)
    return np.asarray(jax.vmap(draw)(keys, jnp.full(len(keys), progress)))


@pytest.mark.parametrize("low, high", [(100, 1000), (130, 130), (1, 2000)])
def test_run_lengths_are_log_uniform_multiples_of_the_truncation(low, high, key):
    lengths = lengths_drawn(key, low, high)
    first, last = np.ceil(low / 50), np.ceil(high / 50)
    n, counts = np.unique(lengths / 50, return_counts=True)
    np.testing.assert_array_equal(n, np.arange(first, last + 1))
    share = np.log((n + 1) / n) / np.log((last + 1) / first)
    error = np.sqrt(len(lengths) * share * (1 - share))
    assert np.all(np.abs(counts - len(lengths) * share) <= 4.5 * error)


def test_a_constant_run_length_is_the_longest(key):
    assert set(lengths_drawn(key, 100, 730, run_length="constant")) == {750}


@pytest.mark.parametrize(
    "progress, longest", [(0.0, 100), (0.3, 200), (0.5, 300), (1.0, 900)]
)
def test_a_curriculum_lengthens_the_runs(progress, longest, key):
    lengths = lengths_drawn(key, 100, 900, progress, run_length="curriculum")
    assert (lengths.min(), lengths.max()) == (100, longest)


def test_truncation_must_be_divided_by_readings():
    with pytest.raises(ConfigError, match="meta_every"):
        make_unroll(5, meta_every=2)


def test_the_meta_loss_needs_its_split():
    task = replace(fixed_start(), splits=("train", "valid", "test"))
    with pytest.raises(ConfigError, match=r"meta_split.*\(train, valid, test\).*'meta'"):
        make_unroll(4, task=task, meta_split="meta")
    make_unroll(4, task=task, meta_split="train")
