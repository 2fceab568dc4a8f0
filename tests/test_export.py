"""The exported file: whole or not at all, and the same updates when it is loaded."""

import json

import numpy as np
import pytest
import safetensors.numpy
from exported import CARD, assert_same_bits, made, train

from lopt.checkpoint import load, load_theta, read, save_file
from lopt.errors import CheckpointError
from lopt.files import fileformat
from lopt.files.fileformat import METADATA_KEY
from lopt.optimizers import OPTIMIZERS
from lopt.options import resolved


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_export_then_load_gives_identical_updates(name, tmp_path):
    source = made(name)
    save_file(source, tmp_path / "x.safetensors")
    again = read(tmp_path / "x.safetensors")
    assert_same_bits(source.theta, again.theta)
    expected, _ = train(source.lopt.opt_fn(source.theta, num_steps=5), 3)
    got, traces = train(load(tmp_path / "x.safetensors", num_steps=5), 3)
    assert_same_bits(expected, got)
    assert traces == 1


def test_header_holds_every_constant(file, original):
    header = fileformat.read_header(file)
    assert header.card == CARD
    assert header.optimizer == "layerwise"
    defaults = resolved(OPTIMIZERS["layerwise"], {})
    assert header.options.keys() == defaults.keys()
    assert header.options["learning_rate"] == defaults["learning_rate"]
    assert header.options["bases"] == ["adam", "sgd"]


def test_a_file_from_before_an_option_has_its_default(file, original):
    rewritten(file, lambda c: c["optimizer"]["options"].pop("decay_gain"))
    assert read(file).header.options == original.header.options


def test_file_is_plain_safetensors(file, original):
    tensors = safetensors.numpy.load_file(file)
    assert sorted(tensors) == sorted(fileformat.flatten(original.theta))


def test_truncated_anywhere_is_one_clear_error(file):
    whole = file.read_bytes()
    for size in sorted({*range(0, 40), *range(40, len(whole), 97), len(whole) - 1}):
        file.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="not a whole safetensors") as caught:
            read(file)
        assert "\n" not in caught.value.message
        assert caught.value.hint


def test_damaged_header_bytes_never_escape(file, original):
    """Every flipped byte of the header is refused in one line, or harmless."""
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    refused = 0
    for position in range(0, 8 + length, 7):
        file.write_bytes(
            whole[:position] + bytes([whole[position] ^ 0x15]) + whole[position + 1 :]
        )
        try:
            read(file)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in error.message, position
    assert refused > length / 7 / 4


def rewritten(file, change):
    """The file, its lopt header changed."""
    tensors = safetensors.numpy.load_file(file)
    with safetensors.safe_open(file, framework="numpy") as opened:
        content = json.loads(opened.metadata()[METADATA_KEY])
    change(content)
    metadata = {METADATA_KEY: json.dumps(content)}
    safetensors.numpy.save_file(tensors, file, metadata)


def with_tensors(file, change):
    """The file, its tensors changed."""
    tensors = safetensors.numpy.load_file(file)
    with safetensors.safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata()
    change(tensors)
    safetensors.numpy.save_file(tensors, file, metadata)


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (lambda c: c.update(format_version=2), "format version 2", "upgrade"),
        (lambda c: c.update(format="other"), "no lopt header", "export"),
        (lambda c: c.pop("format_version"), "damaged", "export"),
        (lambda c: c.update(format_version="1"), "damaged", "export"),
        (lambda c: c.pop("optimizer"), "damaged", "export"),
        (lambda c: c.update(optimizer="layerwise"), "damaged", "export"),
        (lambda c: c["optimizer"].update(options=[]), "damaged", "export"),
        (lambda c: c["optimizer"].update(name="layerwize"), "layerwize", "`layerwise`"),
        (lambda c: c["optimizer"]["options"].update(basis=1), "basis", "`bases`"),
        (lambda c: c["optimizer"]["options"].update(bases=["x"]), "bases", None),
        (lambda c: c["optimizer"]["options"].update(bases="adam"), "be a list", None),
    ],
)
def test_foreign_headers(file, change, message, hint):
    rewritten(file, change)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(file)
    assert str(file) in caught.value.message
    if hint is not None:
        assert hint in caught.value.hint


def put(name, value):
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("network/w0"), "lacks the tensor `network/w0`"),
        (put("network/w9", np.zeros(2, np.float32)), "unknown tensor `network/w9`"),
        (
            put("network/b0", np.zeros(7, np.float32)),
            r"`network/b0` must be .*\[3\].*\[7\]",
        ),
        (put("network/b0", np.zeros(3, np.int32)), "must be float32.*got int32"),
    ],
)
def test_tensors_that_do_not_fit(file, change, message):
    with_tensors(file, change)
    with pytest.raises(CheckpointError, match=message):
        read(file)


def test_files_of_something_else(tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3)}, foreign)
    with pytest.raises(CheckpointError, match="no lopt header"):
        load(foreign)
    foreign.write_bytes(b"%PDF-1.7 " + bytes(500))
    with pytest.raises(CheckpointError, match="not a whole safetensors"):
        load(foreign)
    with pytest.raises(CheckpointError, match="no file"):
        load(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="not a run"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="unknown checkpoint"):
        load("no-such-name")


def test_existing_files_are_kept_unless_told(file, original):
    file.write_bytes(b"precious")
    with pytest.raises(CheckpointError, match="exists already") as caught:
        save_file(original, file)
    assert "--force" in caught.value.hint
    assert file.read_bytes() == b"precious"
    save_file(original, file, overwrite=True)
    assert_same_bits(original.theta, load_theta(file))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(file, original, monkeypatch, call):
    def refuse(*args):
        raise OSError(28, "No space left on device")

    before = file.read_bytes()
    monkeypatch.setattr(fileformat.os, call, refuse)
    with pytest.raises(CheckpointError, match="no space left on device"):
        save_file(original, file, overwrite=True)
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_does_not_exist(original, tmp_path):
    with pytest.raises(CheckpointError, match="no such file or directory"):
        save_file(original, tmp_path / "absent" / "x.safetensors")
