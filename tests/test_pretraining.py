"""Pretrained parameters: made once, kept, and made anew where they are damaged."""

import jax
import numpy as np
import pytest
from family_tools import quick
from safetensors.numpy import load_file
from started import FILE, FROZEN, PRETRAIN, PYTHON, TENSORS, begun, loss_of, made
from suite_files import build, write

from lopt.base import GradientEstimator
from lopt.config import load_suite
from lopt.finetuning import pretraining
from lopt.groups import by_program, data_hashes, group_tasks
from lopt.suites import build_tasks

pytestmark = pytest.mark.usefixtures("cache")


def test_pretrained_seeds_share_a_program_and_not_their_weights(tmp_path):
    other = PRETRAIN.replace("0.03", "0.03, seed = 1")
    entries = f"{PRETRAIN}{FROZEN}[[tasks]]\n{other}{FROZEN}[[tasks]]\n{PRETRAIN}"
    *tasks, apart = build(tmp_path, entries, PYTHON)
    assert len(by_program(tasks)) == 1
    assert len(by_program([*tasks, apart])) == 2  # it trains another tree
    nothing = GradientEstimator(init=lambda *_: (), estimate=lambda *_: ())
    (group,) = group_tasks(tasks, lambda entry: nothing)
    assert len({*data_hashes(group).values()}) == 2


def test_pretraining_trains(tmp_path):
    base, task, shifted = made(
        tmp_path,
        f'file = "file.py"\n[[tasks]]\n{PRETRAIN.replace("20", "200")}[[tasks]]\n'
        f"{PRETRAIN.replace('steps = 20', 'steps = 200, shift = 3.0')}",
    )
    losses = []
    for each in (base, task, shifted):
        params, state = quick(each.init)(jax.random.key(0), each.data)
        losses.append(float(loss_of(each, params, state)[0]))
    assert losses[1] < 0.3 * losses[0]
    assert losses[2] > 2 * losses[1]  # made on other data


def test_pretraining_is_done_once_and_done_again_where_the_cache_is_damaged(
    tmp_path, cache
):
    suite = write(tmp_path, "suite.toml", f"[[tasks]]\n{PRETRAIN}")
    write(tmp_path, "file.py", PYTHON)

    def built():
        notes = []
        (entry,) = build_tasks(load_suite(suite), trust=True, notify=notes.append)
        return begun(entry.task), notes

    first, notes = built()
    assert notes == ["pretraining toy for 20 steps"]
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    assert built()[1] == []
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])
    for damaged in (whole[: len(whole) // 2], b"", flipped):
        file.write_bytes(damaged)
        again, notes = built()
        assert notes[0] == f"`{file}` is damaged: its content is made anew"
        assert notes[1:] == ["pretraining toy for 20 steps"]
        assert file.read_bytes() == whole
        for name, x in first.items():
            np.testing.assert_array_equal(x, again[name])
    # Another file of the user's, other options, another rate: other parameters.
    for old, new in (
        ("steps = 20", "steps = 21"),
        ("steps = 20", "steps = 20, shift = 1.0"),
        ("0.03", "0.02"),
    ):
        write(tmp_path, "suite.toml", f"[[tasks]]\n{PRETRAIN.replace(old, new)}")
        assert built()[1]
    write(tmp_path, "file.py", PYTHON.replace("batch[:, 0]", "batch[:, 1]"))
    assert built()[1]
    assert len([*cache.iterdir()]) == 5


@pytest.mark.parametrize(
    "text",
    [
        'schedule = "constant"',
        "weight_decay = 3.0",
        'optimizer = "lion"',
        "seed = 1",
        "learning_rate = 0.02",
        "steps = 19",
    ],
)
def test_every_key_of_pretraining_counts(tmp_path, text):
    options = {"steps": "steps = 20", "learning_rate": "learning_rate = 0.03"}
    options |= {text.split()[0]: text}
    other = f"start.pretrain = {{ {', '.join(options.values())} }}\n"
    one, two = made(tmp_path, f'{PRETRAIN}[[tasks]]\nfile = "file.py"\n{other}')
    first, second = begun(one), begun(two)
    assert all((first[name] != second[name]).any() for name in first)


def test_a_cache_that_cannot_be_written_is_told(tmp_path, cache):
    cache.parent.parent.mkdir()
    cache.parent.write_text("")  # where the folder should be
    suite = write(tmp_path, "suite.toml", f"[[tasks]]\n{PRETRAIN}")
    write(tmp_path, "file.py", PYTHON)
    notes = []
    build_tasks(load_suite(suite), trust=True, notify=notes.append)
    assert notes[1].startswith("the pretrained parameters are not kept: cannot write")


def test_a_kept_file_is_what_a_start_may_name(tmp_path, cache):
    """So that pretrained parameters can be taken elsewhere."""
    (one,) = made(tmp_path, PRETRAIN)
    (file,) = cache.iterdir()
    assert {*load_file(file)} == {*TENSORS}
    (two,) = made(tmp_path, FILE.replace("start.safetensors", str(file)))
    assert begun(one).keys() == begun(two).keys()
    for name, x in begun(one).items():
        np.testing.assert_array_equal(x, begun(two)[name])


def test_the_cache_depends_on_the_version(tmp_path, cache, monkeypatch):
    made(tmp_path, PRETRAIN)
    monkeypatch.setattr(pretraining, "VERSION", pretraining.VERSION + 1)
    made(tmp_path, PRETRAIN)
    assert len([*cache.iterdir()]) == 2
