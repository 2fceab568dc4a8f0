"""Tasks that start from given parameters: what is trained, frozen, fresh, and kept."""

import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from family_tools import quick
from safetensors.numpy import load_file, save_file
from suite_files import build, complaint, write
from toy_runs import Recorder, assert_same_run

import lopt
from lopt.base import GradientEstimator
from lopt.config import load_suite
from lopt.finetuning import pretraining
from lopt.finetuning.start import covers, names
from lopt.groups import by_program, data_hashes, group_tasks
from lopt.optimizers import layerwise
from lopt.run import meta_train
from lopt.suites import build_tasks
from lopt.unroll import inner_step, unroll

PYTHON = """
import jax, jax.numpy as jnp, numpy as np
from lopt import task_from

DATA = np.random.RandomState(0).randn(64, 3).astype(np.float32)

def init(key):
    head = jax.random.normal(key, (2,)) / 4
    body = {"w": jax.random.normal(key, (3, 2)), "b": jnp.zeros(2)}
    return {"body": body, "head": head}, {"mean": jnp.zeros(2)}

def loss(params, state, batch, key):
    h = batch @ params["body"]["w"] + params["body"]["b"][None]
    mean = 0.9 * state["mean"] + 0.1 * h.mean(0)
    error = jnp.tanh(h - mean[None]) @ params["head"] - batch[:, 0]
    return jnp.mean(error**2), ({"mean": mean}, {})

def task(*, shift=0.0):
    data = DATA + np.float32(shift)
    return task_from(name="toy", init=init, loss=loss, data=data, has_state=True,
                     batch_size=4, loss_bound=8.0)
"""
TENSORS = {
    "body/w": np.arange(6, dtype=np.float32).reshape(3, 2) / 6,
    "body/b": np.asarray([0.5, -0.5], np.float32),
    "head": np.asarray([1.0, 2.0], np.float32),
    "model_state/mean": np.asarray([0.25, 0.75], np.float32),
}
pytestmark = pytest.mark.usefixtures("compiled")

FILE = 'file = "file.py"\nstart.file = "start.safetensors"\n'
PRETRAIN = 'file = "file.py"\nstart.pretrain = { steps = 20, learning_rate = 0.03 }\n'
FROZEN = 'start.frozen = ["body/b"]\n'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of pretrained parameters for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lopt" / "pretrained"


@pytest.fixture
def start(tmp_path):
    path = tmp_path / "start.safetensors"
    save_file(TENSORS, path)
    return path


def made(tmp_path, entry):
    """The tasks of a suite of these entries."""
    return [built.task for built in build(tmp_path, entry, PYTHON)]


def begun(task, seed=0):
    """Parameters and model state, by name."""
    params, state = quick(task.init)(jax.random.key(seed), task.data)
    return {name: np.asarray(x) for name, x in names((params, state)).items()}


def loss_of(task, params, state):
    key = jax.random.key(3)
    return quick(task.loss)(params, state, task.eval_batch(task.data, "test"), key)


def test_a_run_starts_from_the_files_parameters_and_state(tmp_path, start, key):
    base, task = made(tmp_path, f'file = "file.py"\n[[tasks]]\n{FILE}')
    found = begun(task)
    wanted = {name.replace("model_state", "1"): x for name, x in TENSORS.items()}
    for name, x in found.items():
        other = name if name.startswith("1/") else name.removeprefix("0/")
        np.testing.assert_array_equal(x, wanted.pop(other))
    assert not wanted
    body = {"w": TENSORS["body/w"], "b": TENSORS["body/b"]}
    state = {"mean": TENSORS["model_state/mean"]}
    theirs, (their_state, _) = loss_of(
        base, {"body": body, "head": TENSORS["head"]}, state
    )
    params, own_state = quick(task.init)(key, task.data)
    ours, (our_state, _) = loss_of(task, params, own_state)
    assert ours == theirs
    np.testing.assert_array_equal(our_state["mean"], their_state["mean"])


def test_an_orbax_checkpoint_is_as_good_as_a_file(tmp_path, start):
    tree = {
        "body": {"w": TENSORS["body/w"], "b": TENSORS["body/b"]},
        "head": TENSORS["head"],
        "model_state": {"mean": TENSORS["model_state/mean"]},
    }
    with ocp.StandardCheckpointer() as writer:
        writer.save(tmp_path / "folder", tree)
    one, other = made(tmp_path, f"{FILE}[[tasks]]\n{FILE.replace('.safetensors', '')}"
                      .replace('"start"', '"folder"'))  # fmt: skip
    for x, y in zip(jax.tree.leaves(one.data), jax.tree.leaves(other.data), strict=True):
        np.testing.assert_array_equal(x, y)


def test_frozen_tensors_are_no_parameters_and_do_not_change(tmp_path, start, key):
    base, task = made(
        tmp_path, f'file = "file.py"\n[[tasks]]\n{FILE}start.frozen = ["body"]'
    )
    assert task.specs == {"body": {"w": None, "b": None}, "head": base.specs["head"]}
    params, state = task.init(key, task.data)
    assert params["body"] == {"w": None, "b": None}
    optimizer = lopt.load("layerwise", num_steps=3)  # and its guard
    opt_state = quick(optimizer.init)(params)
    shapes = {x.shape[-2:] for x in jax.tree.leaves(opt_state)}
    assert (3, 2) not in shapes
    keys = jax.random.split(key)
    batch = task.batch(keys[0], task.data, "train")
    whole = {**params, "body": task.data["start"]["frozen"]["body"]}
    examples = base.batch(keys[0], base.data, "train")
    gradient = quick(jax.value_and_grad(base.loss, has_aux=True))
    (expected, _), wanted = gradient(whole, state, examples, keys[1])
    ours, _ = quick(jax.grad(task.loss, has_aux=True))(params, state, batch, keys[1])
    np.testing.assert_allclose(ours["head"], wanted["head"], rtol=1e-6)
    step = quick(partial(inner_step, task, optimizer))
    loss, after, _, _ = step(params, state, opt_state, keys, task.data)
    assert loss == pytest.approx(float(expected))
    assert after["body"] == {"w": None, "b": None}
    assert (after["head"] != params["head"]).all()


def test_particles_share_the_frozen_tensors(tmp_path, start, key):
    """Under vmap over particles no array of theirs has a frozen tensor's shape."""
    (task,) = made(tmp_path, f'{FILE}start.frozen = ["body/w"]')
    policy = layerwise(bases=("adam",), hidden_sizes=(3,))
    inner = unroll(task, policy, length=4, min_steps=4, max_steps=8, meta_every=2)

    def run(key):
        theta = policy.init(key)
        state = inner.init(theta, key, task.data, jnp.int32(8))
        reading, state = inner.advance(theta, state, key, task.data)
        return reading.loss, state

    loss, state = quick(jax.vmap(run))(jax.random.split(key, 3))
    assert np.isfinite(loss).all()
    assert (3, 3, 2) not in {x.shape for x in jax.tree.leaves(state)}
    assert state.params["body"]["w"] is None
    assert (np.asarray(state.params["head"]) != TENSORS["head"]).all()


def test_fresh_tensors_are_drawn_anew_and_need_not_fit(tmp_path, start):
    other = {**TENSORS, "head": np.zeros((7, 7), np.float32), "head/b": np.ones(1)}
    save_file(other, start)
    base, task = made(
        tmp_path, f'file = "file.py"\n[[tasks]]\n{FILE}start.fresh = ["he*"]'
    )
    one, two = begun(task, 0), begun(task, 1)
    for name, x in one.items():
        if name == "0/head":
            np.testing.assert_array_equal(x, begun(base, 0)[name])
            assert (x != two[name]).all()
        else:
            np.testing.assert_array_equal(x, two[name])
    save_file({n: x for n, x in TENSORS.items() if n != "head"}, start)
    (task,) = made(tmp_path, f'{FILE}start.fresh = ["head"]')
    np.testing.assert_array_equal(begun(task)["0/body/w"], TENSORS["body/w"])


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


def test_a_cache_that_cannot_be_written_is_told(tmp_path, cache):
    cache.parent.parent.mkdir()
    cache.parent.write_text("")  # where the folder should be
    suite = write(tmp_path, "suite.toml", f"[[tasks]]\n{PRETRAIN}")
    write(tmp_path, "file.py", PYTHON)
    notes = []
    build_tasks(load_suite(suite), trust=True, notify=notes.append)
    assert notes[1].startswith("the pretrained parameters are not kept: cannot write")


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    top = "outer_steps = 4\ncheckpoint_every = 2\n[optimizer]\nbases = ['adam']\n"
    top += "hidden_sizes = []\nprior_logits = {}\n[estimator]\nname = 'pes'\n"
    top += "num_pairs = 1\n[unroll]\nlength = 2\nmeta_every = 1\n"
    task = f"[[tasks]]\n{PRETRAIN}min_steps = 2\nmax_steps = 6\n"
    suite = write(tmp_path, "suite.toml", f"{top}{task}{FROZEN}")
    write(tmp_path, "file.py", PYTHON)
    recorder = Recorder()
    folder, copy = tmp_path / "run", tmp_path / "copy"
    meta_train(suite, out=folder, trust=True, progress=recorder)
    assert recorder.notes == ["pretraining toy for 20 steps"]
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "checkpoints" / "4")
    again = Recorder()
    meta_train(suite, out=copy, trust=True, resume=True, progress=again)
    assert again.steps == [(3, 4), (4, 4)] and again.notes == []
    assert_same_run(copy, folder, step=4)


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("layer_0", "layer_0/w", True),
        ("layer_0", "layer_00/w", False),
        ("layer_[0-4]", "layer_3/attend/gain", True),
        ("*/b", "layer_0/b", True),
        ("*/b", "layer_0/w", False),
        ("w", "layer_0/w", False),
        ("Layer_0", "layer_0/w", False),
    ],
)
def test_a_name_covers_all_beneath_it(pattern, name, covered):
    assert covers(pattern, name) == covered


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
