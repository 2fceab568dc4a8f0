"""Resumed runs are uninterrupted ones, bit for bit, whatever stopped them."""

import json
import os
import shutil
import signal
import time

import pytest
from toy_runs import (
    STEPS,
    TOY,
    Recorder,
    assert_same_run,
    contents,
    start,
    toy_run,
    untimed,
)

from lopt.errors import CheckpointError, ConfigError
from lopt.files import rundir, snapshots
from lopt.run import Interrupted, meta_train


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_continues_bitwise(straight, tmp_path, signum):
    folder = tmp_path / "run"
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    kill = Recorder(lambda step: step == 4 and os.kill(os.getpid(), signum))
    with pytest.raises(Interrupted) as caught:
        toy_run(folder, progress=kill)
    assert caught.value.exit_code == 128 + signum
    assert "--resume" in caught.value.hint
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    (step,) = set(snapshots.steps(folder / rundir.CHECKPOINTS)) - {3}
    assert 4 <= step < STEPS
    assert f"after step {step} of {STEPS}" in caught.value.message
    resumed = toy_run(folder, resume=True)
    assert_same_run(folder, straight.folder)
    assert resumed.metrics[: step - 1] != ()
    sessions = rundir.read_json(folder / rundir.RECORD)["sessions"]
    assert [s["from_step"] for s in sessions] == [0, step]


def test_lines_after_the_restored_step_are_dropped(straight, tmp_path):
    """As a SIGKILL leaves them: steps beyond the snapshot, the last line cut."""
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    shutil.rmtree(folder / rundir.CHECKPOINTS / str(STEPS))
    metrics = folder / rundir.METRICS
    metrics.write_bytes(metrics.read_bytes() + b'{"step": 8, "lo')
    recorder = Recorder()
    toy_run(folder, resume=True, progress=recorder)
    assert recorder.steps == [(STEPS, STEPS)]
    assert_same_run(folder, straight.folder)


def test_other_data_than_before_are_told(straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    shutil.rmtree(folder / rundir.CHECKPOINTS / str(STEPS))
    record = rundir.read_json(folder / rundir.RECORD)
    record["sessions"][0]["data"]["toy"] = "0" * 12
    (folder / rundir.RECORD).write_text(json.dumps(record))
    recorder = Recorder()
    toy_run(folder, resume=True, progress=recorder)
    told = [note for note in recorder.notes if "than before" in note]
    assert told == ["other data than before: bits may differ from here on"]


def test_leftovers_of_a_kill_while_saving_are_no_snapshots(straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    checkpoints = folder / rundir.CHECKPOINTS
    shutil.move(checkpoints / str(STEPS), checkpoints / f".saving-{STEPS}")
    (checkpoints / ".trash-3" / "d").mkdir(parents=True)
    assert snapshots.steps(checkpoints) == [6]
    toy_run(folder, resume=True)
    assert_same_run(folder, straight.folder)
    assert {p.name for p in checkpoints.iterdir()} == {"6", str(STEPS)}


def wait_for_snapshot(process, folder, step):
    deadline = time.monotonic() + 120
    while not any(s >= step for s in snapshots.steps(folder / rundir.CHECKPOINTS)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


MANY = 60


def test_killed_processes_resume_bitwise(tmp_path):
    """SIGKILL at whatever moment, twice, then SIGTERM, then to the end."""
    overrides = (f"outer_steps={MANY}", "checkpoint_every=1")
    folder = tmp_path / "killed"
    for step, signum in ((3, signal.SIGKILL), (9, signal.SIGKILL), (15, signal.SIGTERM)):
        process = start(folder, *overrides)
        wait_for_snapshot(process, folder, step)
        process.send_signal(signum)
        _, said = process.communicate(timeout=120)
        if signum == signal.SIGTERM:
            assert process.returncode == 128 + signum
            assert "--resume" in said
        else:
            assert process.returncode == -signum
    assert snapshots.steps(folder / rundir.CHECKPOINTS)[-1] < MANY
    process = start(folder, *overrides)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    toy_run(tmp_path / "straight", overrides=[f"outer_steps={MANY}"])
    assert_same_run(folder, tmp_path / "straight", MANY)


def test_resume_without_a_run_starts_and_says_so(straight, tmp_path):
    recorder = Recorder()
    toy_run(tmp_path / "run", resume=True, progress=recorder)
    assert "step 0" in recorder.notes[0]
    assert_same_run(tmp_path / "run", straight.folder)


def test_resume_without_a_complete_checkpoint_starts_and_says_so(straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    for step in (6, STEPS):
        shutil.rmtree(folder / rundir.CHECKPOINTS / str(step))
    recorder = Recorder()
    toy_run(folder, resume=True, progress=recorder)
    assert "no complete checkpoint" in recorder.notes[0]
    assert_same_run(folder, straight.folder)


def test_a_finished_run_is_left_unchanged(straight):
    before = contents(straight.folder)
    recorder = Recorder()
    run = toy_run(straight.folder, resume=True, progress=recorder)
    assert contents(straight.folder) == before
    assert "finished" in recorder.notes[0]
    assert recorder.programs == []
    assert run.metrics == straight.metrics


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seed=9", "seed"),
        ("outer_steps=8", "outer_steps"),
        ("estimator.sigma=0.1", "estimator.sigma"),
        ("tasks.0.max_steps=8", "tasks.0.max_steps"),
    ],
)
def test_another_configuration_is_refused(straight, override, key):
    before = contents(straight.folder)
    with pytest.raises(ConfigError, match=f"another `{key}`"):
        toy_run(straight.folder, resume=True, overrides=[override])
    assert contents(straight.folder) == before


def test_resume_needs_a_folder():
    with pytest.raises(ConfigError, match="needs the folder"):
        meta_train(TOY, trust=True, resume=True)


def test_a_disk_that_refuses_leaves_the_last_snapshot(straight, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setattr(
        snapshots.os, "replace", fail_from(3, snapshots.os.replace, "checkpoints/")
    )
    with pytest.raises(CheckpointError, match="no space left on device") as caught:
        toy_run(folder, overrides=["checkpoint_every=1"])
    assert "--resume" in caught.value.hint
    checkpoints = folder / rundir.CHECKPOINTS
    assert snapshots.steps(checkpoints) == [1, 2]
    assert {path.name for path in checkpoints.iterdir()} == {"1", "2"}
    monkeypatch.undo()
    toy_run(folder, overrides=["checkpoint_every=1"], resume=True)
    assert untimed(folder) == untimed(straight.folder)


def fail_from(number, replace, where):
    """`os.replace` that finds the disk full from its n-th snapshot on."""
    calls = []

    def full(source, target):
        if f"{where}.saving" in str(source):
            calls.append(source)
            if len(calls) >= number:
                raise OSError(28, "No space left on device")
        return replace(source, target)

    return full
