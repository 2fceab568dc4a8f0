"""What is said of a start that cannot be."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from started import FILE, PRETRAIN, PYTHON, TENSORS
from suite_files import complaint

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            'start.frozen = ["head", "layer_0"]',
            "`tasks.0.start.frozen.1` must match a tensor of task `toy`, got 'layer_0'",
            "its tensors: `body/b`, `body/w`, `head`",
        ),
        (
            'start.fresh = [""]',
            "`tasks.0.start.fresh.0` must match a tensor of task `toy`, got ''",
            "its tensors",
        ),
        (
            'start.fresh = ["body"]\nstart.frozen = ["*/w"]',
            "`tasks.0.start`: tensor `body/w` must not be both frozen and fresh",
            None,
        ),
        (
            'start.frozen = ["*"]',
            "`tasks.0.start.frozen` must leave a tensor to be trained, got ['*']",
            None,
        ),
    ],
)
def test_patterns_are_checked(tmp_path, start, text, message, hint):
    error = complaint(tmp_path, FILE + text, PYTHON)
    assert error.message == message
    assert (hint in error.hint) if hint else error.hint is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": None, "body/w": None}, "lacks `body/w`, `head`"),
        ({"model_state/mean": None}, "lacks `model_state/mean`"),
        (
            {f"x{i}": np.zeros(1) for i in range(5)},
            "has the unknown `x0`, `x1`, `x2` and 2 more",
        ),
        (
            {"body/w": np.zeros((2, 3), np.float32)},
            "has another shape or type of `body/w` (float32[2, 3], not float32[3, 2])",
        ),
        (
            {"head": np.zeros(2, np.float64)},
            "has another shape or type of `head` (float64[2], not float32[2])",
        ),
        (
            {"head": np.asarray([1, np.inf], np.float32)},
            "has numbers that are not finite in `head`",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_told_with_its_tensors(
    tmp_path, start, change, message
):
    tensors = {n: x for n, x in (TENSORS | change).items() if x is not None}
    save_file(tensors, start)
    error = complaint(tmp_path, FILE, PYTHON)
    expected = f"`tasks.0.start`: `{start}` does not fit task `toy`: it {message}"
    assert error.message == expected
    assert "start.fresh" in error.hint


def test_files_that_cannot_be_read_are_told(tmp_path, start):
    whole = start.read_bytes()
    start.write_bytes(whole[:-3])
    damaged = complaint(tmp_path, FILE, PYTHON)
    assert f"`{start}` is not a safetensors file, or damaged: " in damaged.message
    start.write_bytes(b"\x80\x04]\x94.")  # a pickle
    assert "is not a safetensors file" in complaint(tmp_path, FILE, PYTHON).message
    start.unlink()
    absent = complaint(tmp_path, FILE, PYTHON)
    assert absent.message == f"`tasks.0.start`: no file `{start}`"
    start.mkdir()
    (start / "x").write_text("no checkpoint")
    empty = complaint(tmp_path, FILE, PYTHON)
    assert f"`{start}` is not an orbax checkpoint, or damaged: " in empty.message


def test_bad_pretraining_is_told(tmp_path, cache):
    unknown = complaint(
        tmp_path, PRETRAIN.replace("20", '20, optimizer = "adamv"'), PYTHON
    )
    message = "`tasks.0.start`: unknown optimizer of `pretrain` `adamv`"
    assert (unknown.message, unknown.hint) == (message, "did you mean `adam`?")
    misspelled = complaint(tmp_path, PRETRAIN.replace("steps", "step"), PYTHON)
    assert misspelled.message == "unknown key of `tasks.0.start.pretrain` `step`"
    assert misspelled.hint == "did you mean `steps`?"
    wild = PRETRAIN.replace("0.03", '1e30, optimizer = "sgd"')
    diverged = complaint(tmp_path, wild, PYTHON)
    assert "pretraining toy diverged at a learning rate of 1e+30" in diverged.message
    assert diverged.hint == "lower `start.pretrain.learning_rate`"
    assert not cache.exists()  # what diverged is not kept
