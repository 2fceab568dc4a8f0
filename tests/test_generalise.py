"""scripts/generalise.py: which cells its grid has, and that it can be resumed."""

import json

import generalise
import jax
import pytest

from lopt.checkpoint import read
from lopt.errors import ConfigError
from lopt.evaluation.comparison import evaluate

TINY = ["--center", "width=8", "--center", "depth=1", "--center", "num_steps=20"]
TINY += ["--center", "batch_size=4", "--budgets", "0.5", "1"]
TINY += ["--trials", "1", "--seeds", "2", "--tuning-seeds", "1"]


def measured(value):
    speed_up = {"value": value, "bound": "exact", "interval80": [value / 2, value]}
    return {"speed_up": {"layerwise": {over: speed_up for over in ("best", "adamw")}}}


def test_one_property_at_a_time_and_corners():
    cells = generalise.grid(["num_steps=40"], None, corners=True)
    middle = generalise.CENTER | {"num_steps": 40}
    assert next(iter(cells)) == "center" and cells["center"] == middle
    assert cells["width 256"] == middle | {"width": 256}
    assert cells["dataset patches"] == middle | {"dataset": "patches"}
    assert cells["num_examples 50"] == middle | {"num_examples": 50}
    assert cells["width 256, depth 6"] == middle | {"width": 256, "depth": 6}
    assert len(cells) == 1 + sum(map(len, generalise.AXES.values())) + len(
        generalise.CORNERS
    )
    assert set(generalise.grid([], None, corners=False)) < set(cells)


def test_axes_that_are_asked_for():
    cells = generalise.grid([], ["width=16,32", "activation=tanh", "depth"], corners=True)
    names = ["center", "width 16", "activation tanh"]
    assert list(cells) == names + [f"depth {d}" for d in generalise.AXES["depth"]]
    with pytest.raises(SystemExit, match="unknown axis `weight`\nhint: known: width"):
        generalise.grid([], ["weight=3"], corners=False)


def test_a_cell_is_a_task_of_that_length():
    cells = generalise.grid([], ["num_examples=100"], corners=False)
    built = generalise.build("few", cells["num_examples 100"] | {"num_steps": 70})
    assert (built.task.name, built.num_steps) == ("few", 70)
    assert len(built.task.data["train"][1]) == 100
    with pytest.raises(ConfigError, match=r"`tasks\.0\.width` must be an integer"):
        generalise.build("bad", cells["center"] | {"width": 0})


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    """The third cell fails at first; then it alone is measured, and the picture whole."""
    monkeypatch.setattr(generalise, "OVER", {"best": ("adam",), "adamw": ("adamw",)})
    monkeypatch.setattr("lopt.cli.process.set_up", lambda: None)
    asked = []

    def measure(learned, task, settings, progress):
        asked.append(task.task.name)
        if asked == ["center", "width 16", "width 24"]:
            raise KeyboardInterrupt
        return measured(2.0 if task.task.name == "center" else 0.25)

    monkeypatch.setattr(generalise, "measure", measure)
    arguments = ["layerwise", "--out", str(tmp_path / "g"), "--axis", "width=16,24"]
    options = generalise.parse([*arguments, *TINY])
    with pytest.raises(KeyboardInterrupt):
        generalise.run(options)
    assert list(json.loads((tmp_path / "g.json").read_text())["cells"]) == asked[:2]
    generalise.run(options)
    assert asked[3:] == ["width 24"]
    content = json.loads((tmp_path / "g.json").read_text())
    assert content["settings"]["budgets"] == [0.5, 1.0]
    assert "| width 24 | 0.25 | 0.25 |" in capsys.readouterr().out
    panels = generalise.heat_maps(content, generalise.OVER).axes[:2]
    texts = [text.get_text() for axes in panels for text in axes.texts]
    assert texts == ["2.0", "0.25", "0.25"] * 2
    assert {path.name for path in tmp_path.iterdir()} == {"g.json", "g.png"}
    with pytest.raises(ConfigError, match="has cells of other settings"):
        generalise.run(generalise.parse([*arguments, *TINY, "--seed", "5"]))
    twice = generalise.parse(["layerwise", *arguments, *TINY])
    with pytest.raises(ConfigError, match="different names, got layerwise, layerwise"):
        generalise.run(twice)


@pytest.mark.slow
def test_a_cell_is_compared_as_by_evaluate():
    options = generalise.parse(["layerwise", *TINY])
    cells = generalise.grid(options.center, ["width=8"], corners=False)
    ours = read("layerwise")
    halved = jax.tree.map(lambda x: x / 2, ours.theta)
    other = type(ours)(path=ours.path, lopt=ours.lopt, theta=halved, header=ours.header)
    settings = {key: getattr(options, key) for key in generalise.SETTINGS}
    task = generalise.build("center", cells["center"])
    both = {"layerwise": ours, "other": other}
    found = generalise.measure(both, task, settings, lambda text, fraction: None)
    assert set(found["speed_up"]) == {"layerwise", "other"}
    assert found["budgets"] == [10, 20]
    results = evaluate(
        ours.lopt, ours.theta, [task], baselines=["adamw", "static"], **settings
    )
    for name in ("adamw", "static"):
        value = found["speed_up"]["layerwise"][name]["value"]
        assert value == pytest.approx(results.speed_up_over[name].value)
