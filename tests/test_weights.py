"""Which weights of a run are read, and what their card says of them."""

import json
import shutil

import numpy as np
import optax
import pytest
from exported import PARAMS, assert_same_bits, loss_fn, train
from toy_runs import TOY

from lopt.checkpoint import load, load_theta, read, save_file
from lopt.errors import CheckpointError, ConfigError
from lopt.files import fileformat, rundir, snapshots
from lopt.run import meta_train
from lopt.run.selection import Selector


def test_card_of_a_run(straight, tmp_path):
    save_file(read(straight.folder, trust=True), tmp_path / "toy.safetensors")
    card = fileformat.read_header(tmp_path / "toy.safetensors").card
    assert card["suite"] == str(TOY)
    assert (card["outer_steps"], card["seed"]) == (7, 0)
    assert card["versions"]["optax"] == optax.__version__
    assert card["data"] == rundir.read_json(straight.folder / rundir.RECORD)["data"]
    assert card["cost"]["inner_steps"] == sum(x["inner_steps"] for x in straight.metrics)
    assert card["evaluation"] is None


def test_an_earlier_snapshot(straight, tmp_path):
    early = read(straight.folder / rundir.CHECKPOINTS / "6", trust=True)
    assert early.header.card["outer_steps"] == 6
    assert early.header.card["cost"]["inner_steps"] == 6 * 8
    last = load_theta(straight.folder, trust=True)
    assert np.any(early.theta["log"]["rate"] != last["log"]["rate"])


SELECTING = [
    f"selection.suite={TOY.parent / 'selection.toml'}",
    "selection.share=1.0",
    "selection.seeds=2",
    "checkpoint_every=2",
    "outer_optimizer.average=0.7",
]

SCORES = {2: (2.0, 3.0), 4: (2.0, 1.0), 6: (3.0, 4.0), 7: (1.5, 2.0)}  # raw, average


@pytest.fixture(scope="module")
def selecting(tmp_path_factory):
    """A run with these scores, and a copy of its snapshot of step 4, pruned since.

    The average at step 4 has the best score.
    """
    steps = iter(SCORES)
    folder = tmp_path_factory.mktemp("selecting") / "run"
    early = tmp_path_factory.mktemp("early") / "4"

    def compile_scores(selector, state):
        def score(thetas):
            if (step := next(steps)) == 6:
                shutil.copytree(folder / rundir.CHECKPOINTS / "4", early)
            pair = zip(thetas, SCORES[step], strict=True)
            return {name: {"further": value} for name, value in pair}

        return score

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Selector, "compile", compile_scores)
        run = meta_train(TOY, out=folder, trust=True, overrides=SELECTING)
    return run, early


def test_what_was_selected_is_what_is_read(selecting, tmp_path):
    run, _ = selecting
    assert snapshots.steps(run.folder / rundir.CHECKPOINTS) == [6, 7]
    for step in (None, "best"):
        best = read(run.folder, step=step, trust=True)
        assert_same_bits(best.theta, run.theta)
    card = best.header.card
    assert (card["outer_steps"], card["weights"]) == (4, "average")
    assert card["selection"]["score"] == 1.0
    assert card["selection"]["suite"] == SELECTING[0].partition("=")[2]
    assert card["selection"]["candidates"] == {
        f"step {step}": {"raw": raw, "average": average}
        for step, (raw, average) in SCORES.items()
    }
    assert card["cost"]["selection_inner_steps"] == 4 * 8
    assert card["cost"]["inner_steps"] == 7 * 8  # it took the whole run to know
    save_file(best, tmp_path / "best.safetensors")
    assert_same_bits(load_theta(tmp_path / "best.safetensors", trust=True), run.theta)
    params, _ = train(load(run.folder, num_steps=3, trust=True), 3)
    other, _ = train(load(tmp_path / "best.safetensors", num_steps=3, trust=True), 3)
    assert_same_bits(params, other)


def test_the_selected_weights_are_those_of_their_step(selecting):
    """The average after 4 steps, as the snapshot had it that has been pruned since."""
    run, early = selecting
    stored = snapshots.read_part(run.folder / rundir.CHECKPOINTS / "7", "selected")
    assert (stored["step"], stored["is_average"], stored["score"]) == (4, True, 1.0)
    then = snapshots.read_part(early, "average")
    np.testing.assert_array_equal(stored["theta/log/rate"], then["log/rate"])
    last = snapshots.read_part(run.folder / rundir.CHECKPOINTS / "7", "average")
    assert np.any(stored["theta/log/rate"] != last["log/rate"])


@pytest.mark.parametrize(("step", "at"), [("last", 7), (7, 7), (6, 6)])
def test_any_kept_step_can_be_read(selecting, step, at):
    run, _ = selecting
    found = read(run.folder, step=step, trust=True)
    kept = snapshots.read_part(run.folder / rundir.CHECKPOINTS / str(at), "average")
    np.testing.assert_array_equal(found.theta["log"]["rate"], kept["log/rate"])
    card = found.header.card
    assert (card["outer_steps"], card["weights"], card["selection"]) == (
        at, "average", None,
    )  # fmt: skip
    snapshot = read(run.folder / rundir.CHECKPOINTS / str(at), trust=True)
    assert_same_bits(snapshot.theta, found.theta)


def test_steps_that_are_not_there(selecting, straight, file):
    run, _ = selecting
    with pytest.raises(CheckpointError, match="no checkpoint of step 4") as caught:
        read(run.folder, step=4, trust=True)
    assert "6, 7" in caught.value.hint
    with pytest.raises(CheckpointError, match="no selected weights") as caught:
        read(straight.folder, step="best", trust=True)
    assert "--step last" in caught.value.hint
    with pytest.raises(ConfigError, match="has no steps"):
        read(run.folder / rundir.CHECKPOINTS / "6", step="last", trust=True)
    with pytest.raises(ConfigError, match="only a run has steps"):
        read(file, step="last")


def test_without_average_and_selection_theta_is_read(straight):
    found = read(straight.folder, trust=True)
    assert found.header.card["weights"] == "raw"
    assert found.header.card["selection"] is None
    kept = snapshots.read_part(straight.folder / rundir.CHECKPOINTS / "7", "theta")
    np.testing.assert_array_equal(found.theta["log"]["rate"], kept["log/rate"])


def test_an_evaluation_in_a_run_is_of_what_was_selected(selecting, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(selecting[0].folder, folder)
    results = folder / rundir.RESULTS
    results.parent.mkdir()
    content = {"speed_up": 2, "speed_up_over": {}, "tasks": [], "settings": {}}
    results.write_text(json.dumps(content))
    for step, is_evaluated in ((None, True), ("best", True), ("last", False), (6, False)):
        card = read(folder, step=step, trust=True).header.card
        assert (card["evaluation"] is not None) == is_evaluated


def test_evaluation_is_on_the_card(straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    results = folder / rundir.RESULTS
    results.parent.mkdir()
    speed_up = {"value": 2.5, "bound": "exact"}
    content = {
        "speed_up": speed_up,
        "speed_up_over": {"adam": speed_up},
        "tasks": [{"name": "toy", "speed_up": speed_up, "contenders": [{}] * 9}],
        "settings": {"seeds": 10},
    }
    results.write_text(json.dumps(content))
    evaluation = read(folder, trust=True).header.card["evaluation"]
    assert evaluation["speed_up"] == speed_up
    assert evaluation["tasks"] == {"toy": speed_up}
    early = read(folder / rundir.CHECKPOINTS / "6", trust=True)
    assert early.header.card["evaluation"] is None
    results.write_text("{}")
    with pytest.raises(CheckpointError, match="not an evaluation"):
        read(folder, trust=True)


def test_an_optimizer_in_a_python_file_needs_trust(straight, tmp_path):
    file = tmp_path / "toy.safetensors"
    save_file(read(straight.folder, trust=True), file)
    with pytest.raises(CheckpointError, match="Python file") as caught:
        load(file)
    assert "--trust" in caught.value.hint
    params, _ = train(load(file, trust=True), 2)
    assert float(loss_fn(params)) < float(loss_fn(PARAMS))


def test_damaged_snapshots(straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    snapshot = folder / rundir.CHECKPOINTS / "7"
    for path in [p for p in snapshot.rglob("*") if p.is_file()]:
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match="cannot be read") as caught:
            read(folder, trust=True)
        assert "delete that folder" in caught.value.hint
        path.write_bytes(whole)
    shutil.rmtree(folder / rundir.CHECKPOINTS)
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        read(folder, trust=True)
