"""Meta-losses relative to what Adam makes of a task."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quadratic
from toy_runs import assert_same_run, toy_run
from trainers import entry
from unrolls import two_rates

from lopt import prng, references
from lopt.config import UnrollConfig
from lopt.errors import ConfigError
from lopt.files import rundir
from lopt.groups import by_program
from lopt.unroll import Referenced, unroll

CONFIG = UnrollConfig(length=4, meta_every=2, meta_transform="relative")


def suite(*scales):
    """Quadratics of one shape with other curvatures, for runs of 8 to 12 steps.

    What is learned on `train` is not quite right on `meta`.
    """
    tasks = []
    for scale in scales:
        task = quadratic(curvature=(0.5 * scale, 2.0 * scale))
        leaf = task.data["meta"]
        moved = task.data | {"meta": leaf | {"center": leaf["center"] + 0.2}}
        tasks.append(replace(task, name=f"x{scale}", data=moved))
    return [entry(task, max_steps=12) for task in tasks]


def by_optax(task, rate):
    """The mean initial loss, and that of the readings of the last truncation."""
    adam = optax.adam(rate, eps_root=1e-8)

    def loss_of(params, split):
        return task.loss(params, (), task.eval_batch(task.data, split), None)[0]

    @jax.jit
    def step(params, state):
        updates, state = adam.update(jax.grad(loss_of)(params, "train"), state)
        return loss_of(params, "meta"), optax.apply_updates(params, updates), state

    curves = []
    for key in prng.split(jax.random.key(references.SEED), references.SEEDS):
        params, _ = task.init(prng.split(key, 3)[0], task.data)
        state, losses = adam.init(params), []
        for _ in range(13):
            loss, params, state = step(params, state)
            losses.append(loss)
        curves.append(losses)
    curve = np.mean(curves, axis=0)
    return curve[0], (curve[10] + curve[12]) / 2


def test_references_are_the_best_of_adams_rates():
    tasks = suite(1.0, 3.0)
    assert len(by_program(tasks)) == 1
    found = references.referenced(tasks, CONFIG)
    assert [e.task.name for e in found] == ["x1.0", "x3.0"]
    for before, after in zip(tasks, found, strict=True):
        expected = [by_optax(before.task, rate) for rate in references.RATES]
        data = after.task.data
        assert isinstance(data, Referenced) and data.data is before.task.data
        np.testing.assert_allclose(data.initial, expected[0][0], rtol=1e-4)
        np.testing.assert_allclose(
            data.floor, min(last for _, last in expected), rtol=1e-4
        )
    # Both numbers are data: the tasks still share a program.
    assert len(by_program(found)) == 1
    again = references.referenced(tasks, CONFIG)
    assert [e.task.data.floor for e in again] == [e.task.data.floor for e in found]


def test_readings_are_from_one_to_zero_along_the_reference(key):
    lopt = two_rates()
    task = suite(1.0)[0].task
    options = {"length": 4, "meta_every": 2, "min_steps": 8, "max_steps": 8}
    raw = unroll(task, lopt, meta_transform="clipped", **options)
    relative = unroll(task, lopt, meta_transform="relative", **options)
    data = Referenced(task.data, np.float32(5.0), np.float32(1.0))
    theta, steps = lopt.init(key), jnp.int32(8)
    run = raw.init(theta, key, task.data, steps)
    scaled_run = relative.init(theta, key, data, steps)
    reading, _ = raw.advance(theta, run, key, task.data)
    scaled, _ = relative.advance(theta, scaled_run, key, data)
    np.testing.assert_allclose(scaled.loss, (reading.loss - 1.0) / 4.0, rtol=1e-4)
    hopeless = unroll(task, two_rates(1e30), meta_transform="relative", **options)
    worst, _ = hopeless.advance(two_rates(1e30).init(key), scaled_run, key, data)
    np.testing.assert_allclose(worst.loss, (task.loss_bound - 1.0) / 4.0, rtol=1e-4)


@pytest.mark.parametrize("split", ["meta", pytest.param("train", marks=pytest.mark.slow)])
def test_runs_record_their_references_and_resume(split, tmp_path):
    relative = ["unroll.meta_transform=relative", f"unroll.meta_split={split}"]
    whole = tmp_path / "whole"
    lines = toy_run(whole, overrides=relative).metrics
    record = rundir.read_json(whole / "run.json")
    (session,) = record["sessions"]
    numbers = session["references"]["toy"]
    assert numbers["initial"] > numbers["floor"] > 0
    raw = toy_run(None, overrides=["unroll.meta_transform=clipped", relative[1]]).metrics
    span = numbers["initial"] - numbers["floor"]
    expected = (raw[0]["loss"] - numbers["floor"]) / span
    np.testing.assert_allclose(lines[0]["loss"], expected, rtol=1e-4)
    if split == "train":
        return
    stopped = tmp_path / "stopped"
    with pytest.raises(RuntimeError):
        toy_run(stopped, overrides=relative, progress=Stop())
    toy_run(stopped, overrides=relative, resume=True)
    assert_same_run(whole, stopped)


class Stop:
    """A `Progress` that ends a run after its fourth step."""

    note = compiled = selected = lambda *_: None

    def stepped(self, metrics, outer_steps):
        """Enough."""
        if metrics["step"] == 4:
            raise RuntimeError


def test_other_runs_have_no_references(straight):
    (session,) = rundir.read_json(straight.folder / "run.json")["sessions"]
    assert "references" not in session and straight.config.unroll.length == 2


def test_a_task_that_adam_cannot_train_is_told():
    (good,) = suite(1.0)
    data = dict(good.task.data)
    for split, shift in (("train", -50.0), ("meta", 50.0)):
        data[split] = {**data[split], "center": data[split]["center"] + shift}
    bad = replace(good, task=replace(good.task, data=data, loss_bound=1e9))
    with pytest.raises(ConfigError, match=r"task `x1.0`: Adam does not lower its loss"):
        references.referenced([bad], CONFIG)
