"""scripts/meta_generalise.py: what is trained, which cells there are, and resuming."""

import json
from pathlib import Path
from types import SimpleNamespace

import generalise
import meta_generalise
import pytest

from lopt.checkpoint import read
from lopt.config import load_suite
from lopt.files import rundir
from lopt.optimizers import OPTIMIZERS


def test_every_cell_differs_in_one_property():
    cells, plain = (meta_generalise.grid(None, form) for form in meta_generalise.FORMS)
    assert len(cells) == 1 + sum(map(len, meta_generalise.AXES.values()))
    assert list(cells) == list(plain)
    center = cells["center"]
    assert {k: center[k] for k in ("width", "depth", "num_steps")} == {
        "width": 32, "depth": 2, "num_steps": 200,
    }  # fmt: skip
    wide = {"width": 1024, "form": "mup", "base_width": 32}
    assert cells["width 1024"] == center | wide
    assert plain["width 1024"] == center | {"form": "plain", "base_width": 1024} | {
        "width": 1024
    }
    assert cells["num_steps 5000"] == center | {"num_steps": 5000}
    assert list(meta_generalise.grid(["depth=12"], "mup"))[1:] == ["depth 12"]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("form", meta_generalise.FORMS)
def test_training_is_small_and_in_one_form(name, form):
    config = meta_generalise.config_of(name, form)
    optimizer = config.optimizer
    assert name in (optimizer.name, optimizer.options.get("architecture"))
    assert (name == "layerwise") == (optimizer.name == name)
    for task in config.tasks:
        assert task.max_steps <= 500 and task.options["depth"] <= 3
        assert task.options["width"] <= 64 and task.options["form"] == form
        base = 32 if form == "mup" else task.options["width"]
        assert task.options["base_width"] == base
    assert (2, 32) not in {(t.options["depth"], t.options["width"]) for t in config.tasks}


def test_plain_tasks_have_no_multipliers():
    for form, wanted in (("mup", {1.0, 8.0}), ("plain", {1.0})):
        cell = meta_generalise.grid(["width=256"], form)["width 256"]
        specs = generalise.build("x", cell).task.specs.values()
        assert {layer["w"].width_in for layer in specs} == wanted
        assert {layer["w"].forward for layer in specs} == {1 / n for n in wanted}


def test_as_many_steps_as_fit():
    assert meta_generalise.fitting(60.0, 0.7) == 85
    assert meta_generalise.fitting(1.0, 7.0) == 1


def test_an_architecture_is_trained_once(tmp_path, monkeypatch):
    """For as many steps as fit; a run that has ended is read, a shorter one goes on."""
    quick = load_suite("quick", ["optimizer.name=learnable_sgd"])
    monkeypatch.setattr(meta_generalise, "config_of", lambda name, form: quick)
    cost = SimpleNamespace(seconds=4.0 * 20)  # of its four outer steps
    monkeypatch.setattr("lopt.costs.training_cost", lambda config, trust: cost)
    options = SimpleNamespace(runs=tmp_path, minutes=1.0, out=tmp_path / "g")
    first = meta_generalise.trained("learnable_sgd", "mup", options)
    folder = tmp_path / "learnable_sgd-mup"
    assert first.header.card["outer_steps"] == 60 / 20
    assert len(rundir.read_metrics(folder)) == 3

    def refuse(*args, **kwargs):
        raise AssertionError("trains")

    monkeypatch.setattr("lopt.costs.training_cost", refuse)
    monkeypatch.setattr("lopt.run.meta_train", refuse)
    again = meta_generalise.trained("learnable_sgd", "mup", options)
    assert generalise._fingerprint(again.theta) == generalise._fingerprint(first.theta)
    metrics = folder / "metrics.jsonl"
    metrics.write_text("\n".join(metrics.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(AssertionError, match="trains"):
        meta_generalise.trained("learnable_sgd", "mup", options)


def test_both_forms_have_as_many_steps_and_so_has_a_lost_run(tmp_path, monkeypatch):
    quick = load_suite("quick", ["optimizer.name=learnable_sgd"])
    monkeypatch.setattr(meta_generalise, "config_of", lambda name, form: quick)
    written = {"minutes": 1.0, "outer_steps": {"learnable_sgd": 2}}
    (tmp_path / "g-plain.json").write_text(json.dumps(written))
    options = SimpleNamespace(runs=tmp_path / "runs", minutes=1.0, out=tmp_path / "g")
    found = meta_generalise.trained("learnable_sgd", "mup", options)
    assert found.header.card["outer_steps"] == 2
    options.minutes = 10.0
    assert meta_generalise.steps_before(options) == {}, "of other minutes"


def cells_of(file):
    return list(json.loads(file.read_text())["cells"])


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lopt.cli.process.set_up", lambda: None)
    found = read("layerwise")
    monkeypatch.setattr(meta_generalise, "trained", lambda *args: found)
    asked = []

    def measure(learned, task, settings, progress, over):
        asked.append(task.task.name)
        if len(asked) == 4:
            raise KeyboardInterrupt
        assert list(learned) == ["mlp", "celo2"] and over == meta_generalise.OVER
        value = 2.0 if task.task.name.endswith("mup") else 0.5
        speed_up = {"value": value, "bound": "exact", "interval80": [value / 2, value]}
        slow = speed_up | {"value": 0.25}
        return {"speed_up": {
            "mlp": {"adamw": speed_up, "muon": slow}, "celo2": dict.fromkeys(over, slow),
        }}  # fmt: skip

    monkeypatch.setattr(generalise, "measure", measure)
    arguments = ["--optimizer", "mlp", "--optimizer", "celo2", "--axis", "width=64"]
    options = meta_generalise.parse([*arguments, "--out", str(tmp_path / "g")])
    with pytest.raises(KeyboardInterrupt):
        meta_generalise.run(options)
    names = ["center mup", "width 64 mup", "center plain", "width 64 plain"]
    assert list(json.loads((tmp_path / "g-plain.json").read_text())["cells"]) == [
        "center"
    ]
    meta_generalise.run(options)
    assert asked == [*names, names[3]]
    for form in meta_generalise.FORMS:
        content = json.loads((tmp_path / f"g-{form}.json").read_text())
        assert list(content["cells"]) == ["center", "width 64"]
        assert set(content["files"]) == {"mlp", "celo2"}
    printed = capsys.readouterr().out
    assert "mup: level with adamw or better in 50% of 4 cells" in printed
    assert "mup: level with muon or better in 0% of 4 cells" in printed
    assert "plain: level with adamw or better in 0% of 4 cells" in printed
    assert {path.name for path in tmp_path.iterdir()} == {
        f"g-{form}.{kind}" for form in meta_generalise.FORMS for kind in ("json", "png")
    }


@pytest.mark.slow
def test_in_small_from_end_to_end(tmp_path, monkeypatch):
    """One architecture, one step of meta-training, one cell, measured for real."""
    monkeypatch.setattr("lopt.cli.process.set_up", lambda: None)
    monkeypatch.setattr(meta_generalise, "TRAINED", [(16, 1)])
    monkeypatch.setattr(
        meta_generalise, "CENTER", {"width": 8, "depth": 1, "num_steps": 20}
    )
    given = ["--optimizer", "learnable_adam", "--minutes", "0.001", "--axis", "width=8"]
    given += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "g")]
    given += ["--trials", "1", "--seeds", "2", "--tuning-seeds", "1"]
    meta_generalise.run(meta_generalise.parse([*given, "--budgets", "0.5", "1"]))
    assert cells_of(tmp_path / "g-plain.json") == ["center"]
    content = json.loads(Path(tmp_path / "g-mup.json").read_text())
    assert list(content["cells"]) == ["center"]
    for cell in content["cells"].values():
        assert set(cell["loss"]) == {"learnable_adam", "adamw", "muon"}
        assert set(cell["speed_up"]["learnable_adam"]) == {"adamw", "muon"}


def test_the_summary_counts_cells_and_intervals():
    def found(value, high):
        return {"value": value, "interval80": [0.3, high]}

    rows = [(1.2, 1.5), (0.9, 1.1), (0.5, 0.8), (0.25, 0.25)]
    cell = {
        "speed_up": {
            str(i): {"adamw": found(*row), "muon": found(0.25, 0.25)}
            for i, row in enumerate(rows)
        }
    }
    text = meta_generalise.summary({"cells": {"center": cell, "depth 6": cell}}, "mup")
    adamw, muon = text.splitlines()
    assert "level with adamw or better in 25% of 8 cells" in adamw
    assert adamw.endswith("not below 1 in 50%")
    assert "muon or better in 0% of 8 cells" in muon and muon.endswith("in 0%")
