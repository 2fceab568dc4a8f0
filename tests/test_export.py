"""The exported file: whole or not at all, and the same updates wherever it is loaded."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from lopt import checkpoint
from lopt.checkpoint import Checkpoint, load, load_theta, read, save_file
from lopt.errors import CheckpointError, ConfigError
from lopt.files import fileformat, rundir, snapshots
from lopt.files.fileformat import METADATA_KEY, Header
from lopt.optimizers import OPTIMIZERS
from lopt.options import resolved
from lopt.run import meta_train
from lopt.run.selection import Selector

TOY = Path(__file__).parent / "toy" / "toy.toml"
CARD = {"suite": "digits", "outer_steps": 3, "seed": 0}


def made(name, path="memory", **options):
    """A checkpoint of a released optimizer with a theta that is nowhere zero."""
    lopt = OPTIMIZERS[name](**options)
    theta = lopt.init(jax.random.key(0))
    leaves, treedef = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [
        0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)
    ]
    theta = jax.tree.map(jnp.add, theta, jax.tree.unflatten(treedef, noise))
    header = Header(
        optimizer=name, options=resolved(OPTIMIZERS[name], options), card=CARD
    )
    return Checkpoint(path=Path(path), lopt=lopt, theta=theta, header=header)


@pytest.fixture(scope="module")
def original():
    return made("layerwise", bases=("adam", "sgd"), hidden_sizes=(3,), prior_logits={})


@pytest.fixture
def file(original, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(original, path)
    return path


PARAMS = {
    "a": {"kernel": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4), "bias": jnp.zeros(4)},
    "b": [jnp.float32(0.5)],
}


def loss_fn(params):
    hidden = jnp.tanh(
        jnp.ones((2, 3)) @ params["a"]["kernel"] + params["a"]["bias"][None]
    )
    return jnp.mean(jnp.square(hidden - 0.3)) + jnp.square(params["b"][0] - 2.0)


def train(optimizer, num_steps, params=PARAMS):
    """Parameters after a plain optax loop, and how often it was traced."""
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(1)
        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(num_steps):
        params, state = step(params, state)
    return params, len(traces)


def assert_same_bits(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


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


def test_composes_with_chain_vmap_and_scan(file):
    optimizer = optax.chain(optax.clip(0.1), load(file, num_steps=10))

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    def run(params):
        return jax.lax.scan(step, (params, optimizer.init(params)), length=10)[1]

    two = jax.tree.map(lambda x: jnp.stack([x, x + 0.1]), PARAMS)
    both = jax.jit(jax.vmap(run))(two)
    alone = jax.jit(run)(PARAMS)
    np.testing.assert_allclose(both[0], alone, rtol=1e-4)
    assert alone[-1] < alone[0]


def test_params_of_another_tree_are_refused(file):
    optimizer = load(file, num_steps=10)
    state = jax.eval_shape(optimizer.init, PARAMS)

    def update(params, grads=None):
        grads = params if grads is None else grads
        value = jnp.float32(1)
        return jax.eval_shape(optimizer.update, grads, state, params, value=value)

    update(PARAMS)
    lacking = {"a": PARAMS["a"]}
    with pytest.raises(ValueError, match=r"lack.*\['b'\]"):
        update(lacking)
    with pytest.raises(ValueError, match=r"unknown.*\['c'\]"):
        update({**PARAMS, "c": jnp.ones(2)})
    other = {**PARAMS, "b": [jnp.ones(5)]}
    with pytest.raises(ValueError, match=r"\['b'\]\[0\].*shape \[5\], not \[\]"):
        update(other)
    with pytest.raises(ValueError, match="parameters"):
        update(other, grads=PARAMS)


def test_run_length_and_loss_are_asked_for(file):
    with pytest.raises(TypeError, match="num_steps"):
        load(file)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        load(file, num_steps=0)
    optimizer = load(file, num_steps=3)
    with pytest.raises(TypeError, match="value"):
        state = jax.eval_shape(optimizer.init, PARAMS)
        jax.eval_shape(optimizer.update, PARAMS, state, PARAMS)


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "run"
    return meta_train(TOY, out=folder, trust=True)


def test_card_of_a_run(toy_run, tmp_path):
    save_file(read(toy_run.folder, trust=True), tmp_path / "toy.safetensors")
    card = fileformat.read_header(tmp_path / "toy.safetensors").card
    assert card["suite"] == str(TOY)
    assert (card["outer_steps"], card["seed"]) == (7, 0)
    assert card["versions"]["optax"] == optax.__version__
    assert card["cost"]["inner_steps"] == sum(x["inner_steps"] for x in toy_run.metrics)
    assert card["evaluation"] is None


def test_an_earlier_snapshot(toy_run, tmp_path):
    early = read(toy_run.folder / rundir.CHECKPOINTS / "6", trust=True)
    assert early.header.card["outer_steps"] == 6
    assert early.header.card["cost"]["inner_steps"] == 6 * 8
    last = load_theta(toy_run.folder, trust=True)
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


def test_steps_that_are_not_there(selecting, toy_run, file):
    run, _ = selecting
    with pytest.raises(CheckpointError, match="no checkpoint of step 4") as caught:
        read(run.folder, step=4, trust=True)
    assert "6, 7" in caught.value.hint
    with pytest.raises(CheckpointError, match="no selected weights") as caught:
        read(toy_run.folder, step="best", trust=True)
    assert "--step last" in caught.value.hint
    with pytest.raises(ConfigError, match="has no steps"):
        read(run.folder / rundir.CHECKPOINTS / "6", step="last", trust=True)
    with pytest.raises(ConfigError, match="only a run has steps"):
        read(file, step="last")


def test_without_average_and_selection_theta_is_read(toy_run):
    found = read(toy_run.folder, trust=True)
    assert found.header.card["weights"] == "raw"
    assert found.header.card["selection"] is None
    kept = snapshots.read_part(toy_run.folder / rundir.CHECKPOINTS / "7", "theta")
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


def test_evaluation_is_on_the_card(toy_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(toy_run.folder, folder)
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


def test_an_optimizer_in_a_python_file_needs_trust(toy_run, tmp_path):
    file = tmp_path / "toy.safetensors"
    save_file(read(toy_run.folder, trust=True), file)
    with pytest.raises(CheckpointError, match="Python file") as caught:
        load(file)
    assert "--trust" in caught.value.hint
    params, _ = train(load(file, trust=True), 2)
    assert float(loss_fn(params)) < float(loss_fn(PARAMS))


def test_damaged_snapshots(toy_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(toy_run.folder, folder)
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


def test_names_of_released_files_and_paths(file, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "released", lambda kind, name: Path(kind) / name)
    assert checkpoint.locate("layerwise") == Path("checkpoints/layerwise")
    assert checkpoint.locate(file) == file
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layerwise").mkdir()
    assert checkpoint.locate("layerwise") == Path("layerwise")


SCRIPT = """
import sys
import jax, jax.numpy as jnp, optax
import lopt

def loss_fn(params, x, y):
    return jnp.mean(jnp.square(jnp.tanh(x @ params["w"]) @ params["v"] - y))

x = jax.random.normal(jax.random.key(0), (32, 4))
params = {"w": 0.5 * jax.random.normal(jax.random.key(1), (4, 8)), "v": jnp.ones((8, 1))}
y = jnp.sum(x, axis=1, keepdims=True)
optimizer = lopt.load(sys.argv[1], num_steps=100)
state = optimizer.init(params)

@jax.jit
def step(params, state):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    updates, state = optimizer.update(grads, state, params, value=loss)
    return optax.apply_updates(params, updates), state, loss

losses = []
for _ in range(100):
    params, state, loss = step(params, state)
    losses.append(float(loss))
print(losses[0], losses[-1])
assert losses[-1] < 0.3 * losses[0]
"""


def test_the_file_in_a_plain_training_script(tmp_path):
    lopt = OPTIMIZERS["layerwise"]()
    header = Header(optimizer="layerwise", options=resolved(OPTIMIZERS["layerwise"], {}))
    prior = Checkpoint(
        path=tmp_path, lopt=lopt, theta=lopt.init(jax.random.key(0)), header=header
    )
    save_file(prior, tmp_path / "layerwise.safetensors")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "layerwise.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
