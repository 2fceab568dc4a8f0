"""Published weights become our theta, or one line says why not.

Files that flax, torch and safetensors themselves wrote are in tests/data; recorded
thetas of published optimizers travel in tests/test_golden.py.
"""

import hashlib
import itertools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax_files import flax_bytes, nested

import lopt.cli
from lopt.checkpoint import load, read, save_file
from lopt.errors import CheckpointError, ConfigError
from lopt.files import fileformat
from lopt.optimizers import OPTIMIZERS
from lopt.published.importing import import_file
from lopt.published.layouts import ARCHITECTURES

DATA = Path(__file__).parent / "data"
RNG = np.random.default_rng(7)


def random(*shape):
    return np.asarray(0.1 * RNG.standard_normal(shape), np.float32)


def dense(name, *sizes):
    """Weights [inputs, outputs] and biases; `name(layer, kind)` names them."""
    theta = {}
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        theta[name(i, "w")] = random(n_in, n_out)
        theta[name(i, "b")] = random(n_out)
    return theta


ADAFAC = {
    **dense(lambda i, k: f"nn/~/{k}{i}", 39, 4, 3, 2),
    "momentum_decays": random(3),
    "rms_decays": random(1),
    "adafactor_decays": random(3),
}
PUBLISHED = {
    "learnable_sgd": {"log_lr": random()},
    "learnable_sgdm": {"log_lr": random(), "one_minus_momentum": random()},
    "learnable_adam": {
        "log_lr": random(),
        "one_minus_beta1": random(),
        "one_minus_beta2": random(),
        "log_epsilon": random(),
    },
    "mlp": dense(lambda i, k: f"mlp/~/linear_{i}/{k}", 19, 5, 2),
    "adafac_mlp": ADAFAC,
    "mup_adafac": ADAFAC,
    "nn_adam": {
        **{f"per_layer_{n}": random() for n in ("lr", "beta1", "beta2", "epsilon")},
        "rnn_params/rnn/linear/w": random(19 + 6, 24),
        "rnn_params/rnn/linear/b": random(24),
        "lstm_init_state/hidden": random(1, 6),
        "lstm_init_state/cell": random(1, 6),
        "rnn_to_controls_params/rnn_to_controls/w": random(6, 4),
        "rnn_to_controls_params/rnn_to_controls/b": random(4),
    },
}
"""One theta of every architecture, with google/learned_optimization's names."""


def flat(theta):
    return fileformat.flatten(jax.device_get(theta))


def write(path, tensors):
    """A file in the format that the suffix names."""
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(tensors, path)
    else:
        path.write_bytes(flax_bytes(nested(tensors)))
    return path


def test_everything_published_can_be_imported():
    assert {*ARCHITECTURES} == {*OPTIMIZERS} - {"layerwise"} == {*PUBLISHED}


@pytest.mark.parametrize("suffix", [".state", ".safetensors"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_theta_travels(name, suffix, tmp_path):
    file = write(tmp_path / f"theta{suffix}", PUBLISHED[name])
    imported = import_file(file, name)
    save_file(imported.checkpoint, tmp_path / "ours.safetensors")

    ours = flat(read(tmp_path / "ours.safetensors").theta)
    published = {
        k: v.T if "linear_" in k or "~/w" in k else v for k, v in PUBLISHED[name].items()
    }
    # Every array is there once, whatever it is called.
    theirs = {x.tobytes() for x in published.values()}
    assert {np.ascontiguousarray(x).tobytes() for x in ours.values()} == theirs
    assert len(ours) == len(published)

    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
    optimizer = load(tmp_path / "ours.safetensors", num_steps=10)
    state = optimizer.init(params)
    # Traced, not run: recorded updates are compared in test_golden.py.
    updates, _ = jax.eval_shape(optimizer.update, params, state, params, value=1.0)
    assert updates["w"].shape == (3, 2)


def test_names_are_matched_one_by_one(tmp_path):
    file = write(tmp_path / "theta.state", PUBLISHED["adafac_mlp"])
    ours = flat(import_file(file, "adafac_mlp").checkpoint.theta)
    for i in range(3):
        np.testing.assert_array_equal(ours[f"network/w{i}"], ADAFAC[f"nn/~/w{i}"].T)
        np.testing.assert_array_equal(ours[f"network/b{i}"], ADAFAC[f"nn/~/b{i}"])
    np.testing.assert_array_equal(ours["factored_decays"], ADAFAC["adafactor_decays"])
    np.testing.assert_array_equal(ours["momentum_decays"], ADAFAC["momentum_decays"])

    file = write(tmp_path / "theta.state", PUBLISHED["learnable_adam"])
    ours = flat(import_file(file, "learnable_adam").checkpoint.theta)
    expected = PUBLISHED["learnable_adam"]
    assert ours["log_one_minus_b1"] == expected["one_minus_beta1"]
    assert ours["log_one_minus_b2"] == expected["one_minus_beta2"]
    assert ours["log_eps"] == expected["log_epsilon"]

    file = write(tmp_path / "theta.state", PUBLISHED["nn_adam"])
    ours = flat(import_file(file, "nn_adam").checkpoint.theta)
    expected = PUBLISHED["nn_adam"]
    for name in ("lr", "beta1", "beta2", "epsilon"):
        assert ours[f"initial/{name}"] == expected[f"per_layer_{name}"]
    for name in ("hidden", "cell"):
        np.testing.assert_array_equal(
            ours[f"lstm/{name}"], expected[f"lstm_init_state/{name}"]
        )


def test_weights_that_are_stored_one_by_one_are_joined(tmp_path):
    single = {
        "_".join([name, *map(str, index)]): np.asarray(array[index])
        for name, array in ADAFAC.items()
        if name.startswith("nn/")
        for index in np.ndindex(array.shape)
    }
    decays = {k: v for k, v in ADAFAC.items() if not k.startswith("nn/")}
    file = write(tmp_path / "theta.state", {**decays, **single})
    ours = import_file(file, "adafac_mlp").checkpoint.theta
    whole = import_file(write(tmp_path / "w.state", ADAFAC), "adafac_mlp")
    jax.tree.map(np.testing.assert_array_equal, ours, whole.checkpoint.theta)

    del single["nn/~/w1_2_0"]
    write(file, {**decays, **single})
    with pytest.raises(CheckpointError, match="lacks the tensor `nn/~/w1_2_0`"):
        import_file(file, "adafac_mlp")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda theta: {"params": theta, "gen_id": "a", "step": 3},
        lambda theta: {"0": theta, "1": "", "2": 0},
        lambda theta: {
            "gradient_learner_state": {
                "theta_opt_state": {"params": theta, "iteration": np.int32(3)}
            },
            "gradient_estimator_states": {"0": {"loss": random(2)}},
        },
    ],
)
def test_theta_is_found_inside_of_checkpoints(wrap, tmp_path):
    theta = nested(PUBLISHED["mlp"])
    (tmp_path / "c.state").write_bytes(flax_bytes(wrap(theta)))
    (tmp_path / "p.state").write_bytes(flax_bytes(theta))
    inside, plain = (import_file(tmp_path / f, "mlp") for f in ("c.state", "p.state"))
    jax.tree.map(
        np.testing.assert_array_equal, inside.checkpoint.theta, plain.checkpoint.theta
    )


def test_what_else_a_checkpoint_holds_is_not_dropped(tmp_path):
    content = {"params": nested(PUBLISHED["mlp"]), "decays": random(6)}
    (tmp_path / "c.state").write_bytes(flax_bytes(content))
    with pytest.raises(CheckpointError, match="has none of the tensors") as error:
        import_file(tmp_path / "c.state", "mlp")
    assert "it has 5: `decays`, `params/" in error.value.hint


def test_a_file_of_flax_itself():
    rng = np.random.default_rng(0)
    ours = flat(import_file(DATA / "mlp_params.msgpack", "mlp").checkpoint.theta)
    for i, (n_in, n_out) in enumerate([(19, 3), (3, 2)]):
        for name, shape in ((f"w{i}", (n_in, n_out)), (f"b{i}", (n_out,))):
            expected = (0.1 * rng.standard_normal(shape)).astype(np.float32)
            np.testing.assert_array_equal(ours[f"network/{name}"], expected.T)


def test_pylo_layers_are_in_our_order():
    file = DATA / "meta_mlp.safetensors"
    theirs = safetensors.numpy.load_file(file)
    ours = flat(import_file(file, "mup_adafac").checkpoint.theta)
    for i, layer in enumerate(("input", "linear_0", "output")):
        for ours_kind, kind in (("w", "weight"), ("b", "bias")):
            np.testing.assert_array_equal(
                ours[f"network/{ours_kind}{i}"], theirs[f"network.{layer}.{kind}"]
            )


def test_decays_that_pylo_keeps_elsewhere():
    file = DATA / "meta_mlp.safetensors"
    mulo, elo = (import_file(file, name) for name in ("mup_adafac", "adafac_mlp"))
    assert mulo.constants["theta.momentum_decays"] == [0.15216392, 0.14245212, 0.06812963]
    assert mulo.constants["step_mult"] == 0.01
    assert elo.constants["theta.factored_decays"] == [0.0, 0.0, 0.0]
    assert elo.constants["step_mult"] == 0.001
    theta = flat(mulo.checkpoint.theta)
    assert theta["rms_decays"] == np.float32(0.01079706)

    stated = {"theta": {"rms_decays": [0.5]}, "step_mult": 1}
    imported = import_file(file, "mup_adafac", stated)
    assert imported.constants["theta.rms_decays"] == [0.5]
    assert flat(imported.checkpoint.theta)["rms_decays"] == 0.5
    assert imported.checkpoint.header.options["step_mult"] == 1.0


def test_the_header_says_where_weights_are_from():
    imported = import_file(DATA / "meta_mlp.safetensors", "mup_adafac", {"exp_mult": 0.5})
    header = imported.checkpoint.header
    assert header.optimizer == "mup_adafac"
    assert header.options["hidden_sizes"] == [2, 2]
    assert header.options["exp_mult"] == 0.5
    card = json.loads(json.dumps(header.card))
    assert card["imported_from"] == "meta_mlp.safetensors"
    assert card["format"] == "safetensors"
    digest = hashlib.sha256((DATA / "meta_mlp.safetensors").read_bytes()).hexdigest()
    assert card["sha256"] == digest
    assert card["not_in_the_file"]["exp_mult"] == 0.5
    assert "hidden_sizes" not in card["not_in_the_file"]


# Files that are refused


def changed(**changes):
    """The tensors of `adafac_mlp`, some replaced, or left out where None."""
    tensors = {**ADAFAC, **{k.replace(":", "/~/"): v for k, v in changes.items()}}
    return {k: v for k, v in tensors.items() if v is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nn:w2": None}, "lacks the tensor `nn/~/w2`"),
        ({"momentum_decays": None}, "lacks the tensor `momentum_decays`"),
        ({"extra": random(2)}, "`extra`, which is no tensor of `adafac_mlp`"),
        (
            {"nn:w1": random(4, 7)},
            "`nn/~/w1` of `.*` must have shape [4, 3], got [4, 7]",
        ),
        (
            {"nn:w0": random(40, 4)},
            "`nn/~/w0` of `.*` must have shape [39, 4], got [40, ",
        ),
        ({"nn:b2": random(3)}, "`nn/~/b2` of `.*` must have shape [2], got [3]"),
        ({"nn:b1": random(1, 3)}, "`nn/~/b1` of `.*` must have shape [3], got [1, 3]"),
        ({"rms_decays": random(2)}, "`rms_decays` of `.*` must have shape [1], got [2]"),
        ({"nn:b0": np.zeros(4, np.int32)}, "`nn/~/b0` of `.*` must be of floating point"),
        ({"nn:b0": np.full(4, np.nan)}, "`nn/~/b0` of `.*` must be finite, got 4 of 4"),
        ({"nn:b0": np.full(4, 1e300)}, "`nn/~/b0` of `.*` must be finite, got 4 of 4"),
    ],
)
def test_tensors_that_do_not_fit_are_named(changes, message, tmp_path):
    file = write(tmp_path / "x.safetensors", changed(**changes))
    pattern = message.replace("[", r"\[").replace(".*", "[^`]*")
    with pytest.raises(CheckpointError, match=pattern):
        import_file(file, "adafac_mlp")


def test_a_missing_tensor_may_be_stated(tmp_path):
    file = write(tmp_path / "x.state", changed(rms_decays=None))
    with pytest.raises(CheckpointError) as error:
        import_file(file, "adafac_mlp")
    assert error.value.hint == "if you know it, state it: `--set theta.rms_decays=[…]`"
    imported = import_file(file, "adafac_mlp", {"theta": {"rms_decays": [0.25]}})
    assert flat(imported.checkpoint.theta)["rms_decays"] == 0.25
    assert imported.constants["theta.rms_decays"] == [0.25]


@pytest.mark.parametrize(
    ("held", "name", "message", "hint"),
    [
        ("mlp", "nn_adam", "has weights of `mlp`, not of `nn_adam`", "with `--as mlp`"),
        ("learnable_sgd", "learnable_adam", "has weights of `learnable_sgd`", "sgd`"),
        (
            "mup_adafac",
            "mlp",
            "weights of `adafac_mlp` or `mup_adafac`, not of `mlp`",
            "`--as adafac_mlp` or `--as mup_adafac`",
        ),
    ],
)
def test_weights_of_another_architecture(held, name, message, hint, tmp_path):
    file = write(tmp_path / "x.state", PUBLISHED[held])
    with pytest.raises(CheckpointError, match=message) as error:
        import_file(file, name)
    assert hint in error.value.hint


def test_weights_of_nothing_that_is_known(tmp_path):
    file = write(tmp_path / "x.state", {f"a/{i}": random(2) for i in range(4)})
    with pytest.raises(CheckpointError, match="none of the tensors of `mlp`") as error:
        import_file(file, "mlp")
    assert error.value.hint == "it has 4: `a/0`, `a/1`, `a/2`, …"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stepmult": 0.1}, "unknown key of `mup_adafac` `stepmult`"),
        ({"step_mult": "x"}, "`mup_adafac.step_mult` must be a number, got 'x'"),
        ({"step_mult": -1}, "`step_mult` must be positive, got -1"),
        ({"hidden_sizes": [3, 3]}, r"`hidden_sizes` is \[2, 2\] in .*, got \[3, 3\]"),
        ({"momentum_decays": [2.0, 0.5, 0.5]}, r"`momentum_decays` must be in \[0, 1\)"),
        ({"theta": 3}, "`theta` must be a table, got 3"),
        ({"theta": {"rms_decay": [1.0]}}, "unknown tensor of theta `rms_decay`"),
        ({"theta": {"rms_decays": "x"}}, "`theta.rms_decays` must be a list of finite"),
        ({"theta": {"rms_decays": [float("nan")]}}, "must be a list of finite numbers"),
        ({"theta": {"rms_decays": [1e300]}}, "must be a list of finite numbers"),
        ({"theta": {"rms_decays": [[1.0], []]}}, "must be a list of finite numbers"),
        ({"theta": {"rms_decays": [1, 2]}}, r"`theta.rms_decays` must have shape \[1\]"),
        ({"theta": {"network/b0": [1, 2]}}, "`theta.network/b0` is not to be stated"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ConfigError, match=message):
        import_file(DATA / "meta_mlp.safetensors", "mup_adafac", settings)


def test_what_theta_replaces_cannot_be_set(tmp_path):
    file = write(tmp_path / "x.state", PUBLISHED["learnable_sgd"])
    with pytest.raises(ConfigError, match="`learning_rate` only says where"):
        import_file(file, "learnable_sgd", {"learning_rate": 0.5})
    assert import_file(file, "learnable_sgd").constants == {}


def test_files_of_lopt_need_no_import(tmp_path):
    imported = import_file(DATA / "meta_mlp.safetensors", "mup_adafac")
    save_file(imported.checkpoint, tmp_path / "ours.safetensors")
    with pytest.raises(CheckpointError, match="is a file of lopt already"):
        import_file(tmp_path / "ours.safetensors", "mup_adafac")


# the command


def test_the_command_writes_a_file_and_says_what_it_assumed(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(DATA / "meta_mlp.safetensors", "model.safetensors")
    line = ["import", "model.safetensors", "--as", "mup_adafac", "--set", "step_mult=0.5"]
    assert lopt.cli.run([*line, "--set", "theta.rms_decays=[0.5]"]) == 0
    told = capsys.readouterr()
    assert told.out == "mup_adafac.safetensors\n"
    assert "not in the file: step_mult = 0.5, as you set it" in told.err
    assert "not in the file: exp_mult = 0.001, the default" in told.err
    assert "not in the file: theta.rms_decays = [0.5], as you set it" in told.err
    assert "theta.momentum_decays = [0.15216392, 0.14245212, 0.06812963]" in told.err
    assert read("mup_adafac.safetensors").header.options["step_mult"] == 0.5

    before = Path("mup_adafac.safetensors").read_bytes()
    assert lopt.cli.run(line) == 1
    assert "`mup_adafac.safetensors` exists already" in capsys.readouterr().err
    assert Path("mup_adafac.safetensors").read_bytes() == before
    assert lopt.cli.run([*line, "--force"]) == 0
    assert Path("mup_adafac.safetensors").read_bytes() != before
    assert lopt.cli.run(["show", "mup_adafac.safetensors"]) == 0
    assert "imported_from" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("x.safetensors --as mpl", 2, "unknown architecture to import `mpl`"),
        ("x.safetensors --as layerwise", 2, "unknown architecture to import"),
        ("x.safetensors --as mlp --set step_mult", 2, "`--set` must have the form"),
        ("x.safetensors --as mlp", 1, "weights of `adafac_mlp` or `mup_adafac`"),
        ("x.safetensors --as mup_adafac --set step_mlt=1", 2, "unknown key of `mup_"),
        ("x.safetensors --as mup_adafac --out x.safetensors --force", 2, "`--out` must"),
        ("x.safetensors --as mup_adafac --out no/y.safetensors", 1, "cannot write"),
        ("x.safetensors --as mup_adafac --out . --force", 1, "`.` is a folder, not"),
        ("no.state --as mlp", 1, "cannot read `no.state`"),
        (". --as mlp", 1, "cannot read `.`: is a directory"),
    ],
)
def test_the_command_refuses_in_one_line(
    line, code, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(DATA / "meta_mlp.safetensors", "x.safetensors")
    assert lopt.cli.run(["import", *line.split()]) == code
    told = capsys.readouterr()
    assert told.err.startswith(f"error: {message}") or message in told.err
    assert told.out == ""
    lines = told.err.rstrip().splitlines()
    assert len(lines) == 1 or (len(lines) == 3 and lines[2].startswith("hint: "))
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
