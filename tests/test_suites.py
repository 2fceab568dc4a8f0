"""Suites become tasks; what is wrong with them is told in one line."""

import dataclasses
import importlib.metadata
from inspect import signature
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quadratic
from suite_files import build, complaint

from lopt.base import SPLITS
from lopt.config import load_suite, released_names
from lopt.families import FAMILIES, mlp
from lopt.finetuning.start import names
from lopt.suites import GROUP, build_tasks

TASKS = Path(__file__).parents[1] / "tasks"


@pytest.mark.parametrize("name", released_names("tasks"))
def test_released_suites_build(name, monkeypatch, tmp_path):
    def untrained(task, config):
        params, _ = jax.eval_shape(task.init, jax.random.key(0), task.data)
        return {name: np.zeros(x.shape, x.dtype) for name, x in names(params).items()}

    monkeypatch.setattr("lopt.finetuning.pretraining._train", untrained)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = load_suite(name)
    tasks = build_tasks(config)
    assert config.description
    assert len(tasks) == len(config.tasks)
    for built, entry in zip(tasks, config.tasks, strict=True):
        assert (built.task.name, built.num_steps) == (entry.name, entry.num_steps)
        assert (built.min_steps, built.max_steps) == (entry.min_steps, entry.max_steps)
        assert built.weight == entry.weight
    assert len({built.task.name for built in tasks}) == len(tasks)


def test_heldout_tasks_of_finetuning_are_of_the_same_networks():
    seen, heldout = (load_suite(n).tasks for n in ("finetune", "finetune-heldout"))
    news = {"own": set(), "weights": set(), "data": set(), "longer": set()}
    for task in heldout:
        kind, _, new = task.name.rpartition("-")
        news[new].add(kind)
        same = [base for base in seen if base.name.startswith(kind)]
        start, base = task.start, same[0]
        assert (start.frozen, start.fresh) == (base.start.frozen, base.start.fresh)
        differs = {
            "weights": start.pretrain.seed != base.start.pretrain.seed,
            "data": task.options.get("dataset") != base.options.get("dataset"),
            "longer": task.num_steps == 5 * base.num_steps,
        }
        assert [k for k, is_so in differs.items() if is_so] == [new] * (new != "own")
        shuffles = {base.options.get("data_seed", 0) for base in same}
        assert len(shuffles) == len(same)
        assert (task.options.get("data_seed", 0) in shuffles) == (len(same) == 1)
        both = {"dataset": 0, "data_seed": 0}
        assert task.options | both == base.options | both
    kinds = {"digits-whole", "digits-head", "text-whole", "text-head"}
    assert all(found == kinds for found in news.values())


@pytest.mark.parametrize("suite", ["digits", "digits-varied", "digits-large"])
def test_heldout_tasks_are_not_those_of_meta_training(suite):
    seen, heldout = (load_suite(name).tasks for name in (suite, f"{suite}-heldout"))
    defaults = {p.name: p.default for p in signature(mlp).parameters.values()}
    trained_on = [{**defaults, **task.options} for task in seen]
    options = [{**defaults, **task.options} for task in heldout]
    for unseen in options:
        assert unseen not in trained_on
    selected_on = load_suite("digits-large-selection").tasks
    for task in selected_on if suite == "digits-large" else ():
        assert {**defaults, **task.options} not in trained_on + options
    if suite != "digits":
        return
    for option in ("width", "depth", "activation", "dataset", "normalization"):
        assert {o[option] for o in options} - {o[option] for o in trained_on}, option
    assert max(task.num_steps for task in heldout) > max(t.num_steps for t in seen)


def test_optimizers_from_small_are_selected_by_other_tasks_than_they_are_reported_on():
    def tasks(suite):
        found = load_suite(suite).tasks
        return [(task.family, {**task.options, "data_seed": 0}) for task in found]

    others = tasks("small") + tasks("small-heldout")
    assert not [task for task in tasks("small-selection") if task in others]


def test_the_example_of_a_users_task_can_be_learned(key):
    (built,) = build_tasks(load_suite(TASKS / "my_task.py"), trust=True)
    task, adam = built.task, optax.adam(1e-2)

    @jax.jit
    def train(key, data):
        params, state = task.init(key, data)

        def step(carry, key):
            params, opt_state = carry
            batch = task.batch(key, data, "train")
            grads, _ = jax.grad(task.loss, has_aux=True)(params, state, batch, key)
            updates, opt_state = adam.update(grads, opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        carry = params, adam.init(params)
        (params, _), _ = jax.lax.scan(step, carry, jax.random.split(key, 300))
        return task.loss(params, state, task.eval_batch(data, "test"), key)[0]

    assert task.name == "autoencoder"
    assert train(key, task.data) < 0.5  # the mean image has 1, 16 components 0.15


def test_options_and_run_lengths_reach_the_task(tmp_path):
    entry = """
        family = "mlp"
        width = 8
        depth = 1
        batch_size = 4
        weight = 2.5
        min_steps = 60
        max_steps = 70
        num_steps = 80
    """
    (built,) = build(tmp_path, entry)
    assert built.task.specs["layer_0"]["w"].shape == (64, 8)
    assert built.task.name == "mlp-digits-1x8-relu"
    assert dataclasses.astuple(built)[1:] == (2.5, 60, 70, 80, 0.0)
    batch = built.task.batch(jax.random.key(0), built.task.data, "train")
    assert batch[0].shape == (4, 64)


def test_tasks_of_one_name_are_numbered(tmp_path):
    entry = 'family = "mlp"\n[[tasks]]\nfamily = "mlp"\nbatch_size = 32\n[[tasks]]\n'
    tasks = build(tmp_path, entry + 'family = "mlp"\nbatch_size = 16')
    names = [built.task.name for built in tasks]
    assert names == ["mlp-digits-2x32-relu" + end for end in ("", "-2", "-3")]


def test_faults_of_our_own_are_not_hidden(tmp_path, monkeypatch):
    def faulty():
        return 1 / 0

    faulty.__module__ = mlp.__module__
    monkeypatch.setitem(FAMILIES, "faulty", faulty)
    with pytest.raises(ZeroDivisionError):
        build(tmp_path, 'family = "faulty"')


@pytest.mark.parametrize(
    ("entry", "message", "hint"),
    [
        ('family = "mpl"', "unknown task family `mpl`", "did you mean `mlp`?"),
        ('family = "mlp"\nwidht = 3', "unknown key of `tasks.0` `widht`", "`width`"),
        ('family = "mlp"\nwieght = 3', "unknown key of `tasks.0` `wieght`", "`weight`"),
        (
            'family = "mlp"\nwidth = 0',
            "`tasks.0.width` must be an integer of at least 1, got 0",
            None,
        ),
        (
            'family = "mlp"\ndataset = "digit"',
            "`tasks.0`: unknown dataset `digit`",
            "`digits`",
        ),
        ('file = "file.py"\nnoize = 1', "unknown key of `tasks.0` `noize`", "`noise`"),
        ('file = "file.py:tusk"', "file.py` `tusk`", "`task`"),
        ('file = "suite.toml"', "`tasks.0.file` must name a Python file, got", None),
    ],
)
def test_bad_entries(tmp_path, entry, message, hint):
    error = complaint(tmp_path, entry)
    assert message in error.message
    assert (hint in error.hint) if hint else error.hint is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("return 3", "its factory must return a `Task`, got `int`"),
        ("return replace(good, loss_bound=float('inf'))", "finite `loss_bound`"),
        (
            "return replace(good, splits=('train', 'dev'))",
            "`splits` out of train, meta, valid, test, with train, got train, dev",
        ),
        ("return replace(good, splits=('test',))", "with train, got test"),
        ("return replace(good, specs={})", "one `ParamSpec` for each parameter"),
        ("return replace(good, specs={'w': 1})", "`ParamSpec` of shape (3,), got 1"),
        (
            "return replace(good, specs=quadratic(curvature=(1.0,)).specs)",
            "`ParamSpec` of shape (3,)",
        ),
        (
            "return replace(good, loss=lambda p, s, b, k: (p['w'], (s, {})))",
            "must have a scalar loss, got float32[3]",
        ),
        (
            "return replace(good, loss=lambda p, s, b, k: p['w'].sum())",
            "returns `(loss, (model_state, metrics))`",
        ),
        (
            "return replace(good, loss=lambda p, s, b, k: (p['w'].sum(), (s, p)))",
            "must have metrics that are scalars",
        ),
        (
            "return replace(good, loss=lambda p, s, b, k: (p['w'].sum(), (p, {})))",
            "must return a model state of the shapes it was given",
        ),
    ],
)
def test_a_task_that_breaks_the_interface_is_named(
    tmp_path, change, message, unchecked_types
):
    python = f"""
        from dataclasses import replace
        from problems import quadratic

        def task():
            good = quadratic()
            {change}
    """
    assert message in complaint(tmp_path, python=python).message


@pytest.mark.parametrize("split", SPLITS)
def test_every_split_is_looked_at(tmp_path, split):
    python = f"""
        from dataclasses import replace
        from problems import quadratic

        def task():
            good = quadratic()
            data = {{k: v for k, v in good.data.items() if k != "{split}"}}
            return replace(good, data=data)
    """
    assert f"KeyError: '{split}'" in complaint(tmp_path, python=python).message


def test_nothing_is_compiled_while_tasks_are_checked():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: compiled.append(event)
    )
    build_tasks(load_suite("digits"))  # the datasets are there now
    compiled.clear()
    build_tasks(load_suite("digits"))
    assert not [event for event in compiled if "backend_compile" in event]
    jax.jit(lambda x: x * 3 + 1)(jnp.arange(7.0))
    assert [event for event in compiled if "backend_compile" in event]


def test_entry_points_are_families(tmp_path, monkeypatch):
    point = importlib.metadata.EntryPoint("curved", "problems:quadratic", GROUP)

    def entry_points(*, group):
        return [point] if group == GROUP else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    (built,) = build(tmp_path, 'family = "curved"\nnoise = 0.5', trust=False)
    assert built.task.loss is quadratic(noise=0.5).loss
    error = complaint(tmp_path, 'family = "curvd"')
    assert error.hint == "did you mean `curved`?"
