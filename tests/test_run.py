"""Runs: what their folders hold, and what is refused before one begins."""

import json
import subprocess
import threading
from pathlib import Path

import jax
import numpy as np
import optax
import optax.contrib
import pytest
from toy_runs import STEPS, TOY, Recorder, contents, toy_run

from lopt.checkpoint import load_theta
from lopt.config import load_suite
from lopt.errors import CheckpointError, ConfigError
from lopt.files import fileformat, rundir, snapshots
from lopt.groups import data_hashes
from lopt.run import build, meta_train


def test_a_run_explains_itself(straight):
    folder = straight.folder
    assert rundir.read_config(folder) == load_suite(TOY)
    record = json.loads((folder / "run.json").read_text())
    assert record["seed"] == 0
    assert record["versions"]["jax"] == jax.__version__
    (group,) = build(load_suite(TOY), trust=True).groups
    assert record["data"] == data_hashes(group)
    lines = rundir.read_metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines == list(straight.metrics)
    assert lines[0]["task_losses"] == {"toy": pytest.approx(lines[0]["loss"])}
    assert all(line["inner_steps"] == 2 * 2 * 2 for line in lines)
    assert all(line["seconds"] > 0 for line in lines)


def test_checkpoints_are_pruned_and_the_last_step_is_saved(straight):
    assert snapshots.steps(straight.folder / rundir.CHECKPOINTS) == [6, STEPS]


def test_theta_moves_and_is_what_the_folder_holds(straight):
    theta = load_theta(straight.folder, trust=True)
    np.testing.assert_array_equal(
        theta["log"]["rate"], straight.theta["log"]["rate"], strict=True
    )
    assert np.all(np.asarray(theta["log"]["rate"]) != 0)


def test_in_memory_is_the_same_run(straight):
    run = meta_train(TOY, trust=True)
    assert run.folder is None
    np.testing.assert_array_equal(run.theta["log"]["rate"], straight.theta["log"]["rate"])


def test_seed_and_overrides_reach_the_run():
    run = meta_train(TOY, trust=True, seed=5, overrides=["outer_steps=2"])
    assert (run.config.seed, len(run.metrics)) == (5, 2)
    other = meta_train(TOY, trust=True, seed=6, overrides=["outer_steps=2"])
    assert run.metrics[0]["loss"] != other.metrics[0]["loss"]


def test_runs_outside_the_main_thread(tmp_path):
    """Where Python allows no signal handlers."""
    runs = []
    thread = threading.Thread(
        target=lambda: runs.append(toy_run(tmp_path / "run", progress=Recorder()))
    )
    thread.start()
    thread.join()
    assert len(runs[0].metrics) == STEPS


def test_an_existing_run_is_refused_without_resume(straight):
    before = contents(straight.folder)
    with pytest.raises(ConfigError, match="exists already") as caught:
        toy_run(straight.folder)
    assert "--resume" in caught.value.hint
    assert contents(straight.folder) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_refused(tmp_path, resume):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError):
        toy_run(tmp_path, resume=resume)
    assert contents(tmp_path) == {"thesis.tex": b"precious"}


def test_a_file_as_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(ConfigError, match="is a file"):
        toy_run(tmp_path / "run", resume=True)


def test_python_files_of_a_suite_need_trust(tmp_path):
    with pytest.raises(ConfigError, match="Python file"):
        meta_train(TOY, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("optimizer.name=layerwize", "layerwize"),
        ("optimizer.ratte=1.0", "ratte"),
        ("optimizer.rate=fast", "rate"),
        ("estimator.name=nrse", "nrse"),
        ("estimator.num_pears=2", "num_pears"),
        ("outer_optimizer.name=adamm", "adamm"),
        ("outer_optimizer.name=lbfgs", "cannot train theta"),
        ("outer_optimizer.name=contrib.moun", "moun"),
        ("outer_optimizer.learning_rat=1", "learning_rat"),
        ("outer_optimizer.b1=high", "cannot train theta"),
        ("outer_optimizer.schedule=exponential", "decay_rate` must be given"),
        ("outer_optimizer.schedule_options.alhpa=1", "alhpa"),
        ("outer_optimizer.nesterov=3", "nesterov"),
    ],
)
def test_factory_options_are_checked_before_anything_happens(tmp_path, override, match):
    recorder = Recorder()
    with pytest.raises(ConfigError, match=match):
        toy_run(tmp_path / "run", overrides=[override], progress=recorder)
    assert recorder.programs == []
    assert not (tmp_path / "run").exists()


def test_a_non_finite_meta_loss_is_counted_and_not_fatal(tmp_path):
    run = toy_run(tmp_path / "run", overrides=["optimizer.rate=1e30"])
    assert sum(line["num_diverged"] for line in run.metrics) > 0
    assert np.all(np.isfinite(run.theta["log"]["rate"]))
    for line in (tmp_path / "run" / rundir.METRICS).read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # NaN is no JSON


def test_build_groups_tasks():
    trainer = build(load_suite(TOY), trust=True)
    assert trainer.task_names == ("toy",)
    assert isinstance(trainer.outer_optimizer, optax.GradientTransformation)


def test_metrics_of_a_full_disk(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fileformat.os, "fsync", refuse)
    with pytest.raises(CheckpointError, match="no space left"):
        toy_run(tmp_path / "run")
    assert contents(tmp_path / "run") == {}


def test_the_record_names_the_commit_of_the_checkout():
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=root, text=True)
    assert (rundir.git_commit() or "").startswith(head.strip())
