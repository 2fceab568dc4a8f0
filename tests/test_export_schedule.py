"""A frozen policy: the control's own decisions, in a file that runs without a network."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import assert_same_bits, made

from lopt import load
from lopt.checkpoint import read, save_file
from lopt.cli import run
from lopt.config import load_suite
from lopt.errors import CheckpointError, ConfigError
from lopt.evaluation.schedule import following, record
from lopt.export import schedule
from lopt.families import mlp
from lopt.optimizers.policy import Policy
from lopt.optimizers.schedule import POINTS, Means

TASK = mlp(width=8, base_width=8, batch_size=8, depth=0)


@pytest.fixture(scope="module")
def source():
    found = made("layerwise", bases=("adam", "sgd"), hidden_sizes=())
    return replace(found, header=replace(found.header, card={"suite": "quick"}))


@pytest.fixture(scope="module")
def means(source):
    """Of one task instead of the suite's two."""
    return record(source, [TASK], (4, 8), jax.devices()[:1], lambda text, units: None)


@pytest.fixture
def frozen(source, means, monkeypatch):
    monkeypatch.setattr(schedule, "record", lambda *args: means)
    return schedule.frozen(source)


def train(optimizer, steps=4):
    params, _ = TASK.init(jax.random.key(0), TASK.data)
    state, found = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for i in range(steps):
        grads = jax.tree.map(lambda p, i=i: jnp.cos(p + 0.1 * i), params)
        updates, state = update(grads, state, params, value=jnp.float32(1.0))
        found.append(updates)
    return found


def test_it_is_the_control_at_factors_of_one(frozen, source, means, tmp_path):
    path = tmp_path / "s.safetensors"
    save_file(frozen, path)
    one = {name: jnp.asarray(1.0) for name in ("learning_rate", "weight_decay")}
    control = following(means, source.header.options).opt_fn(one, num_steps=8)
    ours = train(load(path, num_steps=8))
    for a, b in zip(ours, train(control), strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)
    whole = train(source.lopt.opt_fn(source.theta, num_steps=8))
    far = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), ours[3], whole[3])
    assert max(jax.tree.leaves(far)) > 1e-4  # it feels nothing


def test_what_is_measured_changes_nothing(frozen):
    """Of gradients, only directions: not their size, nor the loss."""
    optimizer = frozen.lopt.opt_fn(frozen.theta, num_steps=8)
    params, _ = TASK.init(jax.random.key(0), TASK.data)
    grads = jax.tree.map(jnp.cos, params)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    a, _ = update(grads, state, params, value=jnp.float32(1.0))
    b, _ = update(grads, state, params, value=jnp.float32(1e6))
    assert_same_bits(a, b)


def test_the_file_holds_plain_arrays(frozen, source, means, tmp_path):
    path = tmp_path / "s.safetensors"
    save_file(frozen, path)
    again = read(path)
    assert again.header.optimizer == "schedule"
    assert again.header.options["lengths"] == [4, 8]
    assert ["bias", False] in again.header.options["kinds"]
    assert again.header.options["layerwise"] == source.header.options
    assert set(again.theta) == set(Policy._fields)
    shape = (2, len(means.kinds), POINTS)
    assert again.theta["step_size"].shape == shape
    assert again.theta["mixture"].shape == (*shape, 2)
    assert_same_bits(again.theta["blend"], means.policy.blend)
    np.testing.assert_allclose(again.theta["blend"].sum(-1), 1.0, rtol=1e-5)


def test_run_lengths_are_those_of_meta_training():
    assert schedule._lengths(load_suite("quick")) == (5, 10, 20)
    suite = load_suite("quick", ["tasks.1.max_steps=5", "tasks.0.max_steps=5"])
    assert schedule._lengths(suite) == (5,)


def test_a_length_can_be_given(source, monkeypatch):
    asked = []

    def recorded(checkpoint, tasks, lengths, *args):
        asked.append((len(tasks), lengths))
        leaf = np.zeros((1, 1, POINTS), np.float32)
        policy = Policy(leaf, leaf[..., None], leaf[..., None], leaf)
        return Means(lengths, (("bias", False),), policy)

    monkeypatch.setattr(schedule, "record", recorded)
    schedule.frozen(source, num_steps=12)
    assert asked == [(2, (12,))]


@pytest.mark.parametrize(
    ("name", "options"),
    [("mlp", {}), ("layerwise", {"embedding_size": 2, "num_tensors": 4})],
)
def test_an_optimizer_without_decisions_is_refused(tmp_path, name, options, capsys):
    source, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(made(name, **options), source)
    line = ["export", str(source), "--format", "schedule", "-o", str(out)]
    assert run(line) == 2
    told = capsys.readouterr().err
    assert "a schedule is a frozen policy" in told and "`layerwise`" in told
    assert not out.exists()


def test_an_existing_file_is_told_of_before_the_work(source, tmp_path, monkeypatch):
    out = tmp_path / "b.safetensors"
    out.write_bytes(b"precious")
    monkeypatch.setattr(schedule, "record", lambda *args: pytest.fail("it worked"))
    with pytest.raises(CheckpointError, match="exists already"):
        schedule.write(source, out)
    assert out.read_bytes() == b"precious"


def test_a_file_that_does_not_name_its_suite(source, tmp_path):
    unknown = replace(source, header=replace(source.header, card={}))
    with pytest.raises(ConfigError, match="its card names none"):
        schedule.write(unknown, tmp_path / "x.safetensors")


def test_the_command(frozen, source, tmp_path, capsys):
    path, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(source, path)
    assert run(["export", str(path), "--format", "schedule", "-o", str(out)]) == 0
    assert "lopt.load(" in capsys.readouterr().err
    assert_same_bits(read(out).theta["step_size"], frozen.theta["step_size"])
    assert run(["show", str(out)]) == 0
    assert "learned optimizer `schedule`" in capsys.readouterr().out
