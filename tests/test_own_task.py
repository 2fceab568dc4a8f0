"""`task_from`: plain functions and arrays become a task, or one line says why not."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import gradient_descent
from suite_files import complaint

from lopt import mup, prng, suites
from lopt.base import SPLITS
from lopt.data import sample_batch
from lopt.errors import ConfigError
from lopt.groups import by_program
from lopt.own_task import task_from
from lopt.suites import SuiteTask
from lopt.unroll import unroll

X = np.arange(200.0).reshape(100, 2)
Y = np.arange(100)


def init(key):
    return {"b": jnp.zeros(3), "w": jax.random.normal(key, (2, 3))}


def loss(params, batch, key):
    x, _ = batch
    value = jnp.mean((x @ params["w"] + params["b"][None, :]) ** 2)
    return value, {"size": jnp.sqrt(value)}


def own(**changes):
    given = {"name": "own", "init": init, "loss": loss, "data": (X, Y), "loss_bound": 9.0}
    return task_from(**given | changes)


def fault(**changes):
    with pytest.raises(ConfigError) as error:
        own(**changes)
    assert "\n" not in error.value.message
    return error.value


def test_plain_functions_become_a_task(key):
    task = own()
    assert suites.complaint(task) is None
    assert (task.name, task.loss_bound, task.splits) == ("own", 9.0, SPLITS)
    params, state = task.init(key, task.data)
    assert state == ()
    np.testing.assert_array_equal(params["w"], init(key)["w"])
    assert task.specs == mup.infer_specs(params)
    value, (state, metrics) = task.loss(params, (), (X, Y), key)
    expected = np.mean((X @ np.asarray(params["w"])) ** 2)
    assert value == pytest.approx(expected, rel=1e-5) and state == ()
    assert metrics == {"size": pytest.approx(math.sqrt(expected), rel=1e-5)}


def test_a_loss_may_come_without_metrics(key):
    task = own(loss=lambda params, batch, key: loss(params, batch, key)[0])
    result = task.loss(init(key), (), (X, Y), key)
    assert result == (loss(init(key), (X, Y), key)[0], ((), {}))


def test_arrays_are_split_by_a_fixed_draw():
    data = own().data
    assert [len(data[split][0]) for split in SPLITS] == [55, 15, 15, 15]
    rows = np.concatenate([data[split][1] for split in SPLITS])
    assert sorted(rows) == list(Y)
    assert list(rows[:5]) == [77, 15, 41, 19, 36], "the draw must never change"
    for split in SPLITS:
        x, y = data[split]
        np.testing.assert_array_equal(x, X[y])


def test_splits_of_ones_own_stay_and_are_shuffled():
    given = {"train": {"x": X, "y": Y}, "test": {"x": X[:10] + 1, "y": Y[:10]}}
    task = own(data=given, loss=lambda p, batch, key: loss(p, (batch["x"], None), key))
    assert task.splits == ("train", "test") and suites.complaint(task) is None
    for split, shift in (("train", 0), ("test", 1)):
        x, y = task.data[split]["x"], task.data[split]["y"]
        assert sorted(y) == list(given[split]["y"]) != list(y)
        np.testing.assert_array_equal(x, X[y] + shift)


def test_minibatches_are_drawn_as_everywhere_else(key):
    task = own(batch_size=7)
    got = task.batch(key, task.data, "meta")
    expected = sample_batch(key, task.data["meta"], 7)
    assert jax.tree.all(jax.tree.map(np.array_equal, got, expected))


def test_curves_are_read_on_so_many_examples_at_most():
    task = own(eval_size=20)
    for split in SPLITS:
        x, y = task.eval_batch(task.data, split)
        assert len(x) == len(y) == min(20, len(task.data[split][0]))
        np.testing.assert_array_equal(x, task.data[split][0][:20])


@pytest.mark.parametrize(("start", "bound"), [(1.0, 2.0), (1.4, 4.0), (0.1, 0.25)])
def test_divergence_is_some_way_above_the_loss_at_initialization(start, bound):
    constant = own(loss=lambda p, b, k: start + 0 * p["b"].sum(), loss_bound=None)
    assert constant.loss_bound == bound


def test_the_worst_of_four_initializations_counts():
    def spread(key):
        return {"w": jnp.exp(-2 * prng.normal(key))}

    task = own(init=spread, loss=lambda p, b, k: p["w"], loss_bound=None)
    draws = [
        float(spread(prng.split(key, 2)[0])["w"])
        for key in prng.split(jax.random.key(0), 4)
    ]
    assert max(draws) > 8 * sorted(draws)[-2], "a draw that tells the most from a mean"
    assert 1.5 * max(draws) <= task.loss_bound < 3 * max(draws)


def test_same_functions_share_a_program_whatever_the_data():
    twins = [own(), own(data=(X + 1, Y), name="twin"), own(batch_size=8)]
    groups = by_program(
        [
            SuiteTask(task=t, weight=1.0, min_steps=1, max_steps=1, num_steps=1)
            for t in twins
        ]
    )
    assert [[e.task.name for e in g] for g in groups] == [["own", "twin"], ["own"]]


def test_a_model_state_is_carried_through_a_run(key):
    def loss_and_count(params, count, batch, key):
        value, metrics = loss(params, batch, key)
        return value, (count + 1, metrics)

    task = own(
        init=lambda key: (init(key), jnp.zeros((), jnp.int32)),
        loss=loss_and_count,
        has_state=True,
        data=(X / 200, Y),
    )
    assert suites.complaint(task) is None
    lopt = gradient_descent()
    run = unroll(task, lopt, length=6, meta_every=3, min_steps=6, max_steps=6)

    @jax.vmap
    def particle(key):
        theta = lopt.init(key)
        state = run.init(theta, key, task.data, jnp.asarray(6))
        return run.advance(theta, state, key, task.data)

    reading, state = particle(jax.random.split(key, 2))
    assert list(state.model_state) == [6, 6], "readings must not count"
    assert np.all(np.isfinite(reading.loss))
    assert float(reading.loss[0]) != float(reading.loss[1])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:9]), "`data` must be arrays of one length above 0, got 9, 100"),
        ((), "`data` must be arrays of one length above 0, got none"),
        (X[:0], "one length above 0, got 0"),
        (X[:5], "`data` must have examples for four splits, got 5"),
        ({"train": X, "meta": X[:0]}, "`data.meta` must be arrays of one length"),
        ((X, 3), "`data[1]` must be an array of numbers [N, ...], got int64[]"),
        ({"x": X, "y": Y.astype(str)}, "`data['y']` must be an array of numbers"),
        (
            (np.where(X == 7, np.nan, X), Y),
            "`data[0]` must be finite and fit float32, got nan in row 3",
        ),
        (
            (X, Y + 2**31),
            "`data[1]` must be finite and fit int32, got 2147483648 in row 0",
        ),
        (X * 1e38, "`data` must be finite and fit float32, got 4e+38 in row 2"),
        (
            {"train": X, "test": np.where(X == 7, -np.inf, X)},
            "`data.test` must be finite and fit float32, got -inf in row 3",
        ),
    ],
)
def test_data_that_will_not_do(data, message):
    assert message in fault(data=data).message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1, got 0"),
        ({"eval_size": True}, "`eval_size` must be an integer of at least 1, got true"),
        ({"loss": lambda p, b, k: p["w"][0]}, "must have a scalar loss, got float32[3]"),
        ({"loss": lambda p, b, k: None}, "must have a `loss` that returns"),
        ({"loss": lambda p, b, k: (p["w"].sum(), {}, 0)}, "must have a `loss` that"),
        ({"init": lambda key: {"w": Y}}, "parameters in floating point, got int32[100]"),
        ({"data": {"train": (X, Y), "dev": (X, Y)}}, "with train, got train, dev"),
        ({"data": {"test": (X, Y)}}, "with train, got test"),
        ({"loss": lambda p, b, k: p["b"].sum()}, "has a loss of 0 at initialization"),
        ({"loss": lambda p, b, k: p["b"].sum() / 0}, "loss of nan at initialization"),
        ({"loss": lambda p, b, k: p["b"].sum() - 1}, "a loss of -1 at initialization"),
        (
            {"has_state": True, "init": lambda key: {"params": X, "batch_stats": Y}},
            "`init` must return `(params, model_state)` where `has_state`, got `dict`",
        ),
    ],
)
def test_functions_that_will_not_do(changes, message, unchecked_types):
    assert message in fault(**{"loss_bound": None} | changes).message


def test_parameters_that_change_their_shape_are_found():
    widths = iter(range(3, 30))
    changing = own(init=lambda key: {"w": jnp.zeros((2, next(widths)))})
    assert "must have a `ParamSpec` of shape (2, " in suites.complaint(changing)


def test_specs_may_be_told():
    stated = own(specs=partial(mup.param_specs, roles={"w": "output"})).specs
    assert stated["w"].role == "output"
    turned = own(specs=partial(mup.param_specs, output_axis=0)).specs
    assert (turned["w"].fan_in, turned["w"].fan_out) == (3, 2)


@pytest.mark.parametrize(
    ("data", "loss", "line", "reason"),
    [
        (
            "jnp.full(9, jnp.nan)",
            "p",
            6,
            "`data` must be finite and fit float32, got nan in row 0",
        ),
        ("jnp.ones(9)", "p['w']", 3, "TypeError"),
        ("jnp.ones(9)", "p * b", 6, "must have a scalar loss, got float32[64]"),
    ],
)
def test_users_see_their_own_line(tmp_path, data, loss, line, reason):
    python = f"""\
        import jax, jax.numpy as jnp, lopt
        def loss(p, b, k):
            return {loss}
        def task():
            init = jax.random.normal
            return lopt.task_from(name="n", init=init, loss=loss, data={data})
    """
    message = complaint(tmp_path, python=python).message
    assert f"file.py` line {line}: " in message and reason in message
