"""A folder for the Hugging Face Hub: whole or not at all, and taken where a file is."""

import json
import os

import pytest
from exported import assert_same_bits, train

from lopt.checkpoint import load, read, save_folder
from lopt.cli import run
from lopt.cli.evaluate import _default_folder
from lopt.config import load_suite, locate
from lopt.errors import CheckpointError, ConfigError
from lopt.evaluation.schedule import _training
from lopt.files import fileformat, hub
from lopt.published import formats
from lopt.run.plan import plan


@pytest.fixture
def folder(original, tmp_path):
    path = tmp_path / "mine"
    save_folder(original, path)
    return path


def front_matter(folder):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_layout_of_a_model_repository(folder, original, file):
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == file.read_bytes()
    config = json.loads((folder / "config.json").read_text())
    assert config["optimizer"] == {
        "name": "layerwise",
        "options": json.loads(json.dumps(original.header.options)),
    }
    assert os.listdir(folder.parent).count(".mine") == 0


def test_the_card_has_the_front_matter_of_the_hub(folder):
    front, body = front_matter(folder)
    assert front == {
        "library_name": "lopt",
        "license": "unknown",
        "tags": ["lopt", "learned-optimizer", "optax", "jax", "layerwise"],
    }
    assert "# mine" in body and 'lopt.load("mine"' in body
    assert "| suite | digits |" in body and "| outer_steps | 3 |" in body
    assert "| bases | ['adam', 'sgd'] |" in body


def test_the_hub_reads_the_card(folder):
    package = pytest.importorskip(
        "huggingface_hub", reason="huggingface_hub is not installed"
    )
    card = package.ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.license) == ("lopt", "unknown")
    card.save(folder / "README.md")
    assert package.ModelCard.load(folder / "README.md").data.tags[-1] == "layerwise"


def test_a_name_that_yaml_would_misread(tmp_path, original):
    header = fileformat.Header(optimizer="a: #b.py:f|g", options={"x|y": 1.0})
    hub.write(tmp_path / "x", {}, header)
    front, body = front_matter(tmp_path / "x")
    assert front["tags"][-1] == "a: #b.py:f|g"
    assert "| x\\|y | 1.0 |" in body


def test_it_loads_as_the_file_does(folder, file):
    assert_same_bits(read(file).theta, read(folder).theta)
    assert locate(folder) == folder
    expected, _ = train(load(file, num_steps=5), 2)
    got, _ = train(load(folder, num_steps=5), 2)
    assert_same_bits(expected, got)


def test_it_is_taken_where_a_file_is(folder, file, capsys, tmp_path):
    config = load_suite("digits")
    start = plan(config, None, resume=False, start_from=str(folder), trust=False).start
    assert start is not None and start.path == folder
    assert _default_folder(folder).parts == ("evaluations", "mine")
    assert _training(read(folder)).suite == "digits"  # not the folder's config.json
    with pytest.raises(CheckpointError, match=r"safetensors` is a file of lopt already"):
        formats.read(folder)
    assert run(["show", str(folder), "--json"]) == 0
    of_folder = json.loads(capsys.readouterr().out)
    assert run(["show", str(file), "--json"]) == 0
    assert of_folder == json.loads(capsys.readouterr().out)
    back = tmp_path / "back.safetensors"
    assert run(["export", str(folder), "-o", str(back)]) == 0
    assert back.read_bytes() == file.read_bytes()


def test_the_command_writes_one_of_a_file(file, tmp_path, capsys):
    line = ["export", str(file), "--format", "folder", "-o", str(tmp_path / "a")]
    assert run(line) == 0
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'a'}\n"
    size = sum(part.stat().st_size for part in (tmp_path / "a").iterdir())
    assert f"{size:,} bytes" in told.err
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()}
    for more in ([], ["--force"]):
        assert run([*line, *more]) == 1
        assert "exists already" in capsys.readouterr().err
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "a").iterdir()}
    assert run([*line[:3], "fodler", *line[4:]]) == 2
    assert "must be `file` or `folder`, got 'fodler'" in capsys.readouterr().err


def test_what_is_there_is_never_replaced(original, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "x").write_text("precious")
    for name in ("empty", "x"):
        with pytest.raises(CheckpointError, match="exists already"):
            save_folder(original, tmp_path / name)
    assert (tmp_path / "x").read_text() == "precious"
    assert not os.listdir(tmp_path / "empty")


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_leaves_nothing(original, tmp_path, monkeypatch, call):
    def refuse(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(CheckpointError, match="mine`: no space left on device"):
        save_folder(original, tmp_path / "mine")
    assert os.listdir(tmp_path) == []


def test_a_folder_in_one_that_is_not_there(original, tmp_path):
    with pytest.raises(CheckpointError, match="no such file or directory"):
        save_folder(original, tmp_path / "absent" / "mine")


def edit(change):
    """Changes what config.json says."""

    def apply(folder):
        content = json.loads((folder / "config.json").read_text())
        change(content)
        (folder / "config.json").write_text(json.dumps(content))

    return apply


def cut(name):
    def apply(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "lacks `model.safetensors`"),
        (lambda f: (f / "config.json").unlink(), "lacks `config.json`"),
        (cut("model.safetensors"), "model.safetensors` is not a whole"),
        (cut("config.json"), "config.json` is damaged"),
        (lambda f: (f / "config.json").write_text("[1]"), "config.json` is damaged"),
        (edit(lambda c: c.pop("optimizer")), "config.json` is damaged"),
        (edit(lambda c: c.update(mup_base={})), "not of the `model.safetensors`"),
        (
            edit(lambda c: c["optimizer"]["options"].update(learning_rate=0.1)),
            "not of the `model.safetensors`",
        ),
    ],
)
def test_what_is_damaged_is_told_in_one_line(folder, damage, message):
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(folder)
    assert str(folder) in caught.value.message and "\n" not in caught.value.message
    assert caught.value.hint


def test_cards_may_be_edited_and_lost(folder, original):
    edit(lambda c: c.update(card={}, downloads=3))(folder)
    (folder / "README.md").unlink()
    assert_same_bits(read(folder).theta, original.theta)


def test_it_has_no_steps(folder):
    with pytest.raises(ConfigError, match="only a run has steps"):
        read(folder, step="best")


def test_a_run_stays_one_whatever_lies_in_it(folder):
    assert hub.is_folder(folder)
    (folder / "run.json").write_text("{}")
    assert not hub.is_folder(folder)
    with pytest.raises(CheckpointError, match="configuration"):
        read(folder)
