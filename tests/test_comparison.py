"""Comparisons with known answers."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import gradient_descent, linear_regression, quadratic

from lopt.base import SPLITS
from lopt.errors import ConfigError
from lopt.evaluation.baselines import BASELINES, Control
from lopt.evaluation.comparison import evaluate
from lopt.evaluation.contest import (
    LONG,
    Contender,
    compete,
    compile_program,
    milliseconds_per_step,
)
from lopt.evaluation.page import html_report
from lopt.evaluation.results import to_dict
from lopt.suites import SuiteTask

PLAIN, DOUBLE = gradient_descent(), gradient_descent(2)
RATE = {"rate": jnp.asarray(0.1)}


def suite_task(task, num_steps):
    return SuiteTask(
        task=task, weight=1.0, min_steps=1, max_steps=num_steps, num_steps=num_steps
    )


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
        tuning_keys=jax.random.split(jax.random.key(1), 4),
        keys=jax.random.split(jax.random.key(2), 3),
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


def test_where_there_are_only_controls_the_best_of_them_counts():
    results = evaluate(
        PLAIN,
        RATE,
        [suite_task(linear_regression(), 8)],
        baselines=["static"],
        trials=1,
        seeds=2,
        tuning_seeds=1,
    )
    task = results.tasks[0]
    assert task.best_baseline == "static"
    assert task.speed_up == task.speed_up_over["static"]
    assert "over static" in html_report(results)


def test_a_control_is_made_when_all_else_is_in_order():
    asked = []

    def make(lengths, devices, notify):
        asked.append(list(lengths))
        notify("making it", 0)
        return replace(BASELINES["static"], name="mine")

    seen = []
    arguments = dict(baselines=[Control("mine", make), "sgd"], trials=1, tuning_seeds=1)
    tasks = [suite_task(quadratic(), 8), suite_task(quadratic(), 16)]
    with pytest.raises(ConfigError, match="`seeds` must be at least 2"):
        evaluate(PLAIN, RATE, tasks, seeds=1, **arguments)
    assert asked == []
    results = evaluate(
        PLAIN,
        RATE,
        tasks[:1],
        seeds=2,
        progress=lambda text, fraction: seen.append((text, fraction)),
        **arguments,
    )
    assert asked == [[1, 2, 4, 8]]
    assert seen[0] == ("making it", 0.0)
    assert [c.kind for c in results.tasks[0].contenders[1:]] == ["control", "baseline"]
    assert results.settings.baselines == ("mine", "sgd")


@pytest.mark.parametrize("seconds", [[8.0, 4.0, 6.0], [LONG / 2, 8.0, LONG], [LONG + 2]])
def test_time_of_a_step_is_the_best_of_three_or_of_fewer_that_take_long(seconds):
    """8 runs of 5 steps, on a clock that is told how long each measurement takes."""
    task = linear_regression()
    program = compile_program(task, PLAIN, RATE, 8, jax.devices()[0])
    moments = iter(np.cumsum([x for s in seconds for x in (1.0, s)]))
    found = milliseconds_per_step(program, RATE, task, 5, lambda: next(moments))
    assert found == pytest.approx(1000 * min(seconds) / 40)
    assert next(moments, None) is None
