"""scripts/meta_curve.py: what the checkpoints of a run cost, and how that is drawn."""

import shutil

import meta_curve
import numpy as np
import pytest
from toy_runs import STEPS, untimed

from lopt.errors import LoptError
from lopt.files import rundir


def test_a_checkpoint_costs_what_came_before_it(straight):
    found = meta_curve.kept(straight.folder)
    steps = [metrics["inner_steps"] for metrics in untimed(straight.folder)]
    assert [row["step"] for row in found][-1] == STEPS
    assert len(found) > 1
    for row in found:
        assert row["run"] == "run"
        assert row["folder"].name == str(row["step"])
        assert row["inner_steps"] == sum(steps[: row["step"]])
    seconds = [row["seconds"] for row in found]
    assert seconds == sorted(seconds)


def test_what_selection_found_is_drawn(straight, tmp_path):
    with pytest.raises(LoptError, match="has no selection"):
        meta_curve.selected([straight.folder])
    run = shutil.copytree(straight.folder, tmp_path / "other")
    for step, score in ((1, -2.0), (STEPS, -3.0)):
        scores = {"raw": score + 0.5, "averaged": score}
        rundir.append_selection(run, {"step": step, "scores": scores})
    rows = meta_curve.selected([run])["checkpoints"]
    assert [row["step"] for row in rows] == [1, STEPS]
    np.testing.assert_allclose([row["median"] for row in rows], np.exp([-2.0, -3.0]))
    assert rows[1]["inner_steps"] == meta_curve.cost(run, STEPS)["inner_steps"] > 0


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(LoptError, match="nowhere"):
        meta_curve.kept(tmp_path / "nowhere")


def test_a_line_for_each_run():
    rows = [
        {
            "run": run,
            "inner_steps": 1e6 * x,
            "median": 1 / x,
            "interval80": (0.9 / x, 1.1 / x),
        }
        for run in ("one", "two")
        for x in (1, 2)
    ]
    content = {"checkpoints": rows, "quality": "loss", "suite": "quick"}
    (axes,) = meta_curve.picture(content).axes
    one, two, level = axes.lines
    assert [line.get_label() for line in (one, two)] == ["one", "two"]
    np.testing.assert_array_equal(one.get_xydata(), [[1, 1], [2, 0.5]])
    assert list(level.get_ydata()) == [1, 1]
