"""Tasks that start from given parameters: what is trained, frozen and fresh."""

import shutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from family_tools import quick
from safetensors.numpy import save_file
from started import FILE, FROZEN, PRETRAIN, PYTHON, TENSORS, begun, loss_of, made
from suite_files import write
from toy_runs import Recorder, assert_same_run

import lopt
from lopt.finetuning.start import covers
from lopt.optimizers import layerwise
from lopt.run import meta_train
from lopt.suites import complaint as interface_complaint
from lopt.unroll import inner_step, unroll

pytestmark = pytest.mark.usefixtures("cache")


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
    assert interface_complaint(task) is None
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
    (task,) = made(tmp_path, f'{FILE}start.fresh = ["*"]')  # but for the model state
    np.testing.assert_array_equal(begun(task)["1/mean"], TENSORS["model_state/mean"])


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
