"""scripts/meta_curve.py: what the checkpoints of a run cost, and how that is drawn."""

import meta_curve
import numpy as np
import pytest
from toy_runs import STEPS, untimed

from lopt.errors import LoptError


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
    (axes,) = meta_curve.picture({"checkpoints": rows, "suite": "quick"}).axes
    one, two, level = axes.lines
    assert [line.get_label() for line in (one, two)] == ["one", "two"]
    np.testing.assert_array_equal(one.get_xydata(), [[1, 1], [2, 0.5]])
    assert list(level.get_ydata()) == [1, 1]
