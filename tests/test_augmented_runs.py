"""Augmentation in suites and runs: who sees it, who does not, and that it stays."""

import ast
import os
import signal
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from configs import error_of
from problems import linear_regression
from test_layers import PACKAGE, imported
from toy_runs import STEPS, TOY, Recorder, assert_same_run, saved_arrays, toy_run
from trainers import small_mlp
from unrolls import calls, estimator_of, inert

from lopt.augmentation import Draw, augment
from lopt.base import LearnedOptimizer
from lopt.cli.show import show_suite
from lopt.config import AugmentConfig, from_dict, load_suite, to_dict
from lopt.errors import ConfigError
from lopt.run import Interrupted, meta_train
from lopt.run.build import build
from lopt.suites import build_selection_tasks, build_tasks
from lopt.unroll import unroll

SUITE = """
outer_steps = 2
[estimator]
num_pairs = 1
[unroll]
length = 5
[augment]
reparametrize = "tensor"
loss_scale = [0.1, 10]
input_noise = 0.1
permute_labels = true
min_batch_size = 2
[[tasks]]
family = "mlp"
width = 4
depth = 1
batch_size = 8
min_steps = 5
max_steps = 10
sweep.data_seed = [1, 2]
[[tasks]]
family = "regression"
width = 4
depth = 1
batch_size = 4
min_steps = 5
max_steps = 10
augment = { permute_labels = false, input_noise = 0 }
"""
EVERYTHING = AugmentConfig(
    reparametrize="parameter",
    loss_scale=(0.1, 10.0),
    input_noise=0.1,
    permute_labels=True,
    min_batch_size=2,
)
EVERYTHING_BUT_LABELS = replace(EVERYTHING, permute_labels=False)


def descent():
    """Descent by the gradient, whose logarithm of the rate is theta."""

    def opt_fn(theta, *, specs=None, num_steps=None):
        del specs, num_steps
        return optax.with_extra_args_support(optax.sgd(jnp.exp(theta["log_rate"])))

    return LearnedOptimizer(lambda key: {"log_rate": jnp.asarray(-9.0)}, opt_fn)


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "suite.toml"
    path.write_text(SUITE)
    return path


def test_a_task_says_otherwise_key_by_key(suite):
    config = load_suite(suite, ["tasks.0.augment.loss_scale=[1, 2]"])
    swept, _, other = [task.augmentation(config.augment) for task in config.tasks]
    assert (swept.loss_scale, swept.input_noise) == ((1.0, 2.0), 0.1)
    assert swept.permute_labels and swept.reparametrize == "tensor"
    assert (other.loss_scale, other.input_noise) == ((0.1, 10.0), 0.0)
    assert not other.permute_labels and other.min_batch_size == 2
    assert from_dict(to_dict(config)) == config
    plain = to_dict(config)
    plain["tasks"][0]["augment"]["input_noise"] = 3.0
    assert "input_noise" not in config.tasks[0].augment


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augment.input_nose=1", "unknown key of `augment` `input_nose`"),
        ("augment.input_noise=-1", "`augment.input_noise` must not be negative, got -1"),
        ("augment.loss_scale=[2]", "`augment.loss_scale` must be two positive numbers"),
        ("augment.loss_scale=[2, 1]", "`augment.loss_scale` must be two positive number"),
        ("augment.reparam_range=[0, 1]", "`augment.reparam_range` must be two positive"),
        ("augment.reparametrize=all", "`augment.reparametrize` must be `none` or `glo"),
        ("augment.min_batch_size=-1", "`augment.min_batch_size` must not be negative"),
        ("augment=3", "`augment` must be a table, got 3"),
        ("tasks.2.augment.input_nose=1", "`tasks.1`: unknown key of `augment` `input_n"),
        ("tasks.1.augment.input_noise=x", "`tasks.1.augment.input_noise` must be a numb"),
    ],
)
def test_mistakes_are_told_in_one_line(suite, override, message):
    # A sweep is one table of the suite.
    override = override.replace("tasks.2", "tasks.1")
    assert error_of(suite, override).message.startswith(message)


def test_a_task_that_cannot_vary_so_is_named(suite):
    config = load_suite(suite, ["tasks.1.augment.permute_labels=true"])
    with pytest.raises(ConfigError) as caught:
        build(config)
    message = "`tasks.2.augment.permute_labels` must be false for task `regression-"
    assert caught.value.message.startswith(message)
    assert caught.value.hint == "in its own table: `augment.permute_labels = false`"


def test_show_prints_it(suite, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    show_suite(str(suite), json=False, cost=False, trust=False)
    printed = capsys.readouterr().out
    assert "augment.permute_labels=False, augment.input_noise=0" in printed
    rows = [line.split() for line in printed.splitlines()]
    assert ["augment.loss_scale", "[0.1,", "10.0]"] in rows


def test_only_the_trainer_is_built_with_it(suite):
    """One place decides; evaluation, selection and controls build tasks without."""
    importers = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "augmentation" in imported(ast.parse(path.read_text()))
    ]
    assert importers == [str(Path("run") / "build.py")]
    (suite.parent / "other.toml").write_text(SUITE.replace("width = 4", "width = 5"))
    chosen = f"selection.suite={suite.parent / 'other.toml'}"
    config = load_suite(suite, [chosen])
    for built in (*build_tasks(config), *build_selection_tasks(config)):
        _, model_state = jax.eval_shape(built.task.init, jax.random.key(0), None)
        assert model_state == ()
    groups = build(config).groups
    assert [len(group.names) for group in groups] == [2, 1]  # data alone differ
    for group in groups:
        data = jax.tree.map(lambda x: x[0], group.data)
        _, model_state = jax.eval_shape(group.task.init, jax.random.key(0), data)
        assert isinstance(model_state.draw, Draw)


def test_a_suite_with_everything_is_trained_on(suite):
    optimizer = f"optimizer.name={TOY.parent / 'toy.py'}:optimizer"
    run = meta_train(suite, overrides=[optimizer], trust=True)
    assert len(run.metrics) == 2
    for line in run.metrics:
        assert np.isfinite(line["loss"]) and line["grad_norm"] > 0
        assert line["num_diverged"] == 0


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    ["pes", *(pytest.param(n, marks=SLOW) for n in ("es", "gpes", "nres", "nes"))],
)
def test_both_members_of_a_pair_share_the_draw(name, key):
    """What theta does nothing to ends alike, then, and the gradient is zero."""
    task = augment(linear_regression(), EVERYTHING_BUT_LABELS)
    options = {"length": 2, "min_steps": 2, "max_steps": 4, "meta_split": "train"}
    lopt = inert()
    inner = unroll(task, lopt, meta_every=1, **options)
    estimator = estimator_of(name, inner)
    theta = lopt.init(key)
    results, states = jax.jit(lambda key: calls(estimator, task, theta, key, 2))(key)
    assert np.isfinite(results.loss).all() and results.loss[0] != results.loss[1]
    np.testing.assert_array_equal(results.grad["unused"], 0.0)
    leaves = jax.tree.leaves(states, is_leaf=lambda x: isinstance(x, Draw))
    draws = [x for x in leaves if isinstance(x, Draw)]
    for draw in draws:
        w = np.asarray(draw.factors["w"])  # [calls, pairs, 2, ...]
        np.testing.assert_array_equal(w[:, :, 0], w[:, :, 1])
        assert len(np.unique(w[-1, :, 0].reshape(4, -1), axis=0)) == 4
    assert len(draws) == (name != "nes")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tbptt", "full_gradient"])
def test_gradients_pass_through_all_of_it(name, key):
    task = augment(small_mlp(), EVERYTHING)
    lopt = descent()
    inner = unroll(task, lopt, length=2, min_steps=4, max_steps=4, meta_every=1)
    estimator = estimator_of(name, inner, num=1)
    results, _ = jax.jit(lambda k: calls(estimator, task, lopt.init(k), k, 2))(key)
    assert np.isfinite(results.loss).all()
    grad = np.asarray(results.grad["log_rate"])
    assert np.isfinite(grad).all() and np.abs(grad).min() > 0


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    keys = {"reparametrize": "parameter", "loss_scale": [0.5, 2.0], "min_batch_size": 1}
    overrides = [f"augment.{key}={value}" for key, value in keys.items()]
    straight = toy_run(tmp_path / "straight", overrides=overrides)
    folder = tmp_path / "run"
    kill = Recorder(lambda step: step == 4 and os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        toy_run(folder, overrides=overrides, progress=kill)
    toy_run(folder, overrides=overrides, resume=True)
    assert_same_run(folder, straight.folder)
    draws = [name for name in saved_arrays(folder, STEPS) if "/draw/" in name]
    assert len(draws) == len(keys)
    with pytest.raises(ConfigError, match=r"augment\.min_batch_size"):
        toy_run(folder, overrides=overrides[:-1], resume=True)
