"""Selection in runs: what is selected, what the folder says of it, kills between."""

import os
import signal

import numpy as np
import pytest
from toy_runs import (
    OUTER,
    STEPS,
    TOY,
    Recorder,
    assert_same_run,
    outer_run,
    saved_arrays,
    start,
    toy_run,
)

from lopt.checkpoint import load_theta
from lopt.files import rundir, snapshots
from lopt.run import Interrupted, meta_train


@pytest.fixture(scope="module")
def selecting(tmp_path_factory):
    """An uninterrupted run of that kind; not to be changed."""
    return outer_run(tmp_path_factory.mktemp("selecting") / "run")


def test_selections_are_in_the_run(selecting):
    lines = rundir.read_selection(selecting.folder)
    assert lines == list(selecting.selection)
    assert [line["step"] for line in lines] == [3, 6, STEPS]
    assert {*lines[0]["scores"]} == {"raw", "average"}
    scores = {(s, line["step"]): x for line in lines for s, x in line["scores"].items()}
    weights, step = min(scores, key=scores.__getitem__)
    assert lines[-1]["selected"] == {
        "step": step,
        "weights": weights,
        "score": scores[weights, step],
    }
    spent = sum(line["inner_steps"] for line in lines)
    assert spent <= sum(line["inner_steps"] for line in selecting.metrics)
    session = rundir.read_json(selecting.folder / rundir.RECORD)["sessions"][0]
    assert session["selection_compile_seconds"] <= session["compile_seconds"]
    saved = saved_arrays(selecting.folder, STEPS)
    assert {"average/log/rate", "task_scales/number", "selected/theta/log/rate"} <= {
        *saved
    }


def test_selection_does_not_change_theta(selecting, tmp_path):
    plain = [x for x in OUTER if not x.startswith("selection.")]
    toy_run(tmp_path / "run", overrides=plain)
    one = saved_arrays(tmp_path / "run", STEPS)
    two = saved_arrays(selecting.folder, STEPS)
    assert {*two} - {*one} == {name for name in two if name.startswith("selected/")}
    for name in one:
        assert one[name].tobytes() == two[name].tobytes(), name


def test_in_memory_the_same_is_selected(selecting):
    run = meta_train(TOY, trust=True, overrides=OUTER)
    scores = [line["scores"] for line in selecting.selection]
    assert [line["scores"] for line in run.selection] == scores
    np.testing.assert_array_equal(
        run.theta["log"]["rate"], selecting.theta["log"]["rate"]
    )


def test_a_share_that_allows_no_selection_is_told(tmp_path):
    recorder, small = Recorder(), [*OUTER, "selection.share=0.01"]
    run = toy_run(tmp_path / "run", overrides=small, progress=recorder)
    assert recorder.selections == [] and run.selection == ()
    assert "more than `selection.share` = 0.01" in recorder.notes[0]
    np.testing.assert_array_equal(  # the average, for want of anything selected
        run.theta["log"]["rate"], saved_arrays(run.folder, STEPS)["average/log/rate"]
    )
    loaded = load_theta(run.folder, trust=True)
    np.testing.assert_array_equal(run.theta["log"]["rate"], loaded["log"]["rate"])


@pytest.mark.parametrize("at", [4, 6])
def test_a_signal_in_a_run_that_selects_changes_no_bits(selecting, tmp_path, at):
    """Between checkpoints, where a snapshot but no selection is due, and at one."""
    folder = tmp_path / "run"
    kill = Recorder(lambda step: step == at and os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        outer_run(folder, progress=kill)
    assert snapshots.steps(folder / rundir.CHECKPOINTS)[-1] == (5 if at == 4 else 6)
    outer_run(folder, resume=True)
    assert_same_run(folder, selecting.folder)


def test_killed_between_a_selection_and_its_snapshot_it_resumes_bitwise(
    selecting, tmp_path
):
    """SIGKILL, when selection.jsonl has a line that no snapshot knows of."""
    folder = tmp_path / "run"
    process = start(folder, *OUTER, program=KILLED)
    _, said = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, said
    assert [line["step"] for line in rundir.read_selection(folder)] == [3, 6]
    assert snapshots.steps(folder / rundir.CHECKPOINTS) == [3]
    outer_run(folder, resume=True)
    assert_same_run(folder, selecting.folder)


KILLED = """
import os, signal, sys
from lopt.run import loop, meta_train
class Killer(loop.Silent):
    def selected(self, selection):
        if selection["step"] == 6:
            os.kill(os.getpid(), signal.SIGKILL)
meta_train(sys.argv[1], out=sys.argv[2], overrides=sys.argv[3:], trust=True,
           progress=Killer())
"""
