"""An optimizer of a user's own file: meta-trained, exported, loaded, refused."""

import json
import shutil
from pathlib import Path

import jax
import pytest
from exported import PARAMS, assert_same_bits, train

import lopt
from lopt.checkpoint import load, read, save_file
from lopt.cli import run as cli_run
from lopt.errors import CheckpointError
from lopt.files import rundir

EXAMPLE = Path(__file__).parents[1] / "tasks" / "my_optimizer.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a copy of the example; not to be changed."""
    place = tmp_path_factory.mktemp("own")
    shutil.copy(EXAMPLE, place)
    # Differences of thousandths would be lost in the first steps otherwise.
    sets = [f"optimizer.name={place / EXAMPLE.name}:tiny", "estimator.sigma=0.1"]
    lopt.meta_train("quick", overrides=[*sets, "outer_steps=2"], out=place / "run")
    return place


@pytest.fixture
def moved(folder, tmp_path):
    """Its exported file and its Python file, together where they were not made."""
    save_file(read(folder / "run", trust=True), tmp_path / "x.safetensors")
    shutil.copy(folder / EXAMPLE.name, tmp_path)
    return tmp_path / "x.safetensors"


def updated(optimizer):
    return train(optimizer, 3)[0]


def test_it_is_at_most_60_lines():
    assert len(EXAMPLE.read_text().splitlines()) <= 60


def test_it_is_meta_trained_exported_and_loaded(folder, moved):
    run = read(folder / "run", trust=True)
    start = run.lopt.init(jax.random.key(0))
    assert start.keys() == run.theta.keys()
    assert all(abs(x).max() > 0 for x in run.theta.values()), "w1 has left its zeros"
    loaded = load(moved, num_steps=5, trust=True)
    assert_same_bits(updated(loaded), updated(run.lopt.opt_fn(run.theta, num_steps=5)))
    before = run.lopt.opt_fn({**run.theta, "w1": 0 * run.theta["w1"]})
    kernels = [updated(x)["a"]["kernel"] for x in (loaded, before)]
    assert abs(kernels[0] - kernels[1]).max() > 1e-7, "theta is part of it"
    assert abs(kernels[0] - PARAMS["a"]["kernel"]).max() > 1e-3


def test_it_is_run_only_if_trusted(moved):
    with pytest.raises(CheckpointError, match=r"would run.*my_optimizer\.py") as caught:
        load(moved)
    assert "--trust" in caught.value.hint and "trust=True" in caught.value.hint


def test_a_suite_given_by_hand_does_not_make_weights_trusted(moved, tmp_path):
    own = tmp_path / "task.py"
    shutil.copy(EXAMPLE.parent / "my_task.py", own)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    for name in (moved.name, EXAMPLE.name):
        shutil.move(moved.parent / name, stranger)
    weights = stranger / moved.name
    with pytest.raises(CheckpointError, match=r"would run.*stranger/my_optimizer\.py"):
        lopt.evaluate(weights, own)
    with pytest.raises(CheckpointError, match=r"would run.*stranger/my_optimizer\.py"):
        lopt.meta_train(own, start_from=weights)


def test_the_python_file_beside_it_is_taken(folder, moved):
    assert (
        read(moved, trust=True).header.optimizer == f"{moved.parent / EXAMPLE.name}:tiny"
    )
    (moved.parent / EXAMPLE.name).unlink()
    assert read(moved, trust=True).header.optimizer == f"{folder / EXAMPLE.name}:tiny"


def test_without_its_python_file_it_says_where_to_put_it(folder, moved):
    (moved.parent / EXAMPLE.name).unlink()
    there = folder / EXAMPLE.name
    there.rename(folder / "away")
    try:
        with pytest.raises(CheckpointError, match="is not there") as caught:
            read(moved, trust=True)
    finally:
        (folder / "away").rename(there)
    assert caught.value.hint == "put `my_optimizer.py` beside `x.safetensors`"


def test_show_runs_it_only_if_trusted(moved, capsys):
    assert cli_run(["show", str(moved), "--json"]) == 0
    told = capsys.readouterr()
    shown = json.loads(told.out)
    assert shown["cost"] is None and len(shown["file_hash"]) == 64
    assert told.err.startswith("no costs:") and "--trust" in told.err
    assert cli_run(["show", str(moved), "--json", "--trust"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["cost"]["state_bytes"] == 8 and not told.err


def test_a_python_file_that_has_changed_is_refused(moved):
    file = moved.parent / EXAMPLE.name
    file.write_text(file.read_text().replace("0.9 * m", "0.8 * m"))
    with pytest.raises(CheckpointError, match=r"by another .* than is there now"):
        read(moved, trust=True)


def test_a_run_tells_which_content_its_python_file_had(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "own")
    run = tmp_path / "own" / "run"
    (session,) = rundir.read_json(run / rundir.RECORD)["sessions"]
    assert len(session["optimizer_hash"]) == 64
    assert rundir.add_session(run, {**session, "optimizer_hash": "other"}) == [
        "optimizer_hash"
    ]
    with pytest.raises(CheckpointError, match="by another"):
        read(run, trust=True)
