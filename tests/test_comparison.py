"""Curves against descent that is known exactly; comparisons with known answers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import linear_regression, quadratic, quadratic_descent

from lopt.base import SPLITS, LearnedOptimizer
from lopt.errors import ConfigError
from lopt.evaluation.baselines import BASELINES
from lopt.evaluation.comparison import evaluate
from lopt.evaluation.contest import Contender, compete, compile_program
from lopt.evaluation.curves import NEVER, NUM_POINTS, curves, point_steps
from lopt.evaluation.results import to_dict
from lopt.suites import SuiteTask


def gradient_descent(power=1):
    """Descent with rate theta; `power` such steps at a time on a quadratic.

    On a loss of curvature 1 one step multiplies the error by 1 - rate.
    """

    def opt_fn(theta, *, specs=None, num_steps=None):
        del specs, num_steps
        rate = 1 - (1 - theta["rate"]) ** power
        return optax.with_extra_args_support(optax.sgd(rate))

    return LearnedOptimizer(lambda key: {"rate": jnp.asarray(0.1)}, opt_fn)


PLAIN, DOUBLE = gradient_descent(), gradient_descent(2)
RATE = {"rate": jnp.asarray(0.1)}


def suite_task(task, num_steps):
    return SuiteTask(
        task=task, weight=1.0, min_steps=1, max_steps=num_steps, num_steps=num_steps
    )


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
        init_key = jax.random.split(keys(2)[lane], 3)[0]
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
    start = task.init(jax.random.split(keys(1)[0], 3)[0], task.data)[0]["w"][0]
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


def test_an_optimizer_compared_with_itself_is_exactly_as_good():
    task = suite_task(linear_regression(), 40)
    results = evaluate(
        PLAIN, RATE, [task], name="ours", baselines=[("twin", PLAIN, RATE)], seeds=4
    )
    assert results.speed_up.value == 1.0
    assert results.speed_up.interval95 == (1.0, 1.0)
    assert results.speed_up.bound == "exact"
    assert results.tasks[0].winner == "no clear winner between ours and twin"


@pytest.mark.parametrize(
    ("ours", "baseline", "expected"), [(DOUBLE, PLAIN, 2.0), (PLAIN, DOUBLE, 0.5)]
)
def test_twice_as_quick_is_a_speed_up_of_two(ours, baseline, expected):
    # Two steps of descent at a time: T/2 steps reach exactly what T single ones do.
    task = suite_task(quadratic(curvature=(1.0, 1.0), floor=0.05), 32)
    results = evaluate(ours, RATE, [task], baselines=[("other", baseline, RATE)], seeds=4)
    found = results.tasks[0]
    assert found.speed_up.value == pytest.approx(expected, rel=1e-3)
    assert found.speed_up_over["other"] == found.speed_up == results.speed_up
    low, high = found.speed_up.interval95
    assert low == pytest.approx(expected, rel=1e-3) == high
    winner = "learned" if expected > 1 else "other"
    assert found.winner.startswith(f"{winner} wins")
    assert "2.0 times fewer steps" in found.winner
    assert found.contenders[0].budgets[0].accuracy is None
    assert found.contenders[0].curve.steps[-1] == 32


def test_the_same_hyperparameters_give_a_speed_up_of_about_one():
    """A learned optimizer that is literally the baseline it is compared with."""
    task = suite_task(linear_regression(), 64)
    space = BASELINES["adamw"].space
    values = space.values(space.center)._asdict()
    theta = {k: jnp.asarray(v, jnp.float32) for k, v in values.items()}
    results = evaluate(
        BASELINES["adamw"].lopt, theta, [task], baselines=["adamw"], trials=1, seeds=4
    )
    # One trial, but a search that may extend its grid: it is at least as good as ours.
    assert 1 / 8 <= results.speed_up.value <= 1.0
    tuning = results.tasks[0].contenders[1].budgets[-1].tuning
    assert tuning.num_points > 1
    assert results.tasks[0].contenders[0].budgets[0].tuning is None


def tuned(task, name="sgd", trials=4):
    contender = Contender(
        name=name, kind="baseline", lopt=BASELINES[name].lopt, space=BASELINES[name].space
    )
    program = compile_program(
        task, contender.lopt, contender.any_theta, 4, jax.devices()[0]
    )
    return compete(
        program,
        contender,
        task,
        [8, 16],
        trials=trials,
        tuning_keys=keys(4, seed=1),
        keys=keys(3, seed=2),
        on_budget=lambda num_steps: None,
    )


def test_tuning_does_not_see_the_test_split():
    task = linear_regression()
    poison = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), task.data["test"])
    poisoned = replace(task, data={**task.data, "test": poison})
    for clean, bad in zip(tuned(task), tuned(poisoned), strict=True):
        assert clean.tuned == bad.tuned
        np.testing.assert_array_equal(clean.readings.valid_loss, bad.readings.valid_loss)
        assert not clean.diverged.any()
        # Nothing that was selected hides what the test split says.
        assert (clean.losses < 10).all()
        assert (bad.losses == task.loss_bound).all()


def test_results_are_read_at_the_lowest_valid_loss():
    record = tuned(linear_regression())[-1]
    best = record.readings.valid_loss.argmin(axis=0)
    for run in range(3):
        assert record.losses[run] == record.readings.test_loss[best[run], run]
    assert record.losses.shape == (3,)


def test_each_budget_is_tuned_anew_from_the_optimum_before_it():
    first, second = tuned(linear_regression(), trials=6)
    assert first.num_steps, second.num_steps == (8, 16)
    assert next(iter(first.tuned.scores)) == BASELINES["sgd"].space.center
    center = first.tuned.point._replace(constant=False)
    assert next(iter(second.tuned.scores)) == center
    assert first.tuned.scores != second.tuned.scores


def test_one_program_serves_tasks_of_one_shape_and_optimizers_of_one_rule():
    traces = []
    task = linear_regression()

    def loss(*args):
        traces.append(None)
        return task.loss(*args)

    counted = replace(task, loss=loss)
    other = replace(counted, data=jax.tree.map(lambda x: 2 * x, task.data), name="b")
    settings = dict(baselines=["adam", "adamw"], trials=1, seeds=2, tuning_seeds=1)
    evaluate(PLAIN, RATE, [suite_task(counted, 8)], **settings)
    once = len(traces)
    evaluate(PLAIN, RATE, [suite_task(counted, 8), suite_task(other, 16)], **settings)
    assert len(traces) == 2 * once


def test_progress_comes_from_this_thread_and_ends_at_one():
    seen = []
    evaluate(
        PLAIN,
        RATE,
        [suite_task(quadratic(), 16)],
        baselines=["sgd"],
        trials=2,
        seeds=2,
        progress=lambda text, fraction: seen.append((text, fraction)),
    )
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert any("sgd on quadratic, 16 steps" in text for text, _ in seen)


def test_an_error_in_a_worker_reaches_the_caller():
    def loss(*args):
        raise ZeroDivisionError("in the task")

    task = replace(quadratic(), loss=loss)
    with pytest.raises(ZeroDivisionError, match="in the task"):
        evaluate(PLAIN, RATE, [suite_task(task, 8)], baselines=["adam"], trials=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(baselines=["adam", "adam"]), "`adam` twice"),
        (dict(baselines=["addam"]), "unknown baseline `addam`"),
        (dict(baselines=[]), "at least one baseline"),
        (dict(trials=0), "`trials` must be at least 1, got 0"),
        (dict(seeds=1), "`seeds` must be at least 2, got 1"),
        (dict(tuning_seeds=0), "`tuning_seeds`"),
        (dict(budgets=(0.5, 0.25, 1.0)), "`budgets`"),
        (dict(budgets=(0.5,)), "`budgets`"),
        (dict(budgets=(0.0, 1.0)), "`budgets`"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(wrong, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(PLAIN, RATE, [suite_task(quadratic(), 8)], **wrong)
    with pytest.raises(ConfigError, match="at least one task"):
        evaluate(PLAIN, RATE, [])
    for split in ("valid", "test"):
        splits = tuple(s for s in SPLITS if s != split)
        task = replace(quadratic(), splits=splits)
        with pytest.raises(ConfigError, match=f"must have a split `{split}` to be"):
            evaluate(PLAIN, RATE, [suite_task(quadratic(), 8), suite_task(task, 8)])


def test_a_control_is_compared_with_but_is_not_one_of_all():
    results = evaluate(
        PLAIN,
        RATE,
        [suite_task(linear_regression(), 8)],
        baselines=["static", "adam"],
        trials=2,
        seeds=2,
        tuning_seeds=1,
    )
    task = results.tasks[0]
    assert task.best_baseline == "adam"
    assert task.speed_up == task.speed_up_over["adam"]
    assert [c.kind for c in task.contenders] == ["learned", "control", "baseline"]
    tuning = task.contenders[1].budgets[0].tuning
    assert tuning.schedule == "own"
    content = to_dict(results)
    assert content["format"] == "lopt-evaluation"
    assert content["tasks"][0]["speed_up_over"]["static"]["value"] > 0
