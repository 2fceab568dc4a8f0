"""Published weights become our theta, or one line says why not.

Files that flax, torch and safetensors themselves wrote are in tests/data; recorded
thetas of published optimizers travel in tests/test_golden.py.
"""

import hashlib
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax_files import flax_bytes, nested
from published import ADAFAC, DATA, PUBLISHED, as_ours, flat, random, write

import lopt.cli
from lopt.checkpoint import load, read, save_file
from lopt.errors import CheckpointError
from lopt.optimizers import OPTIMIZERS
from lopt.published.importing import import_file
from lopt.published.layouts import ARCHITECTURES


def test_everything_published_can_be_imported():
    assert {*ARCHITECTURES} == {*OPTIMIZERS} - {"layerwise"} == {*PUBLISHED}


@pytest.mark.parametrize("suffix", [".state", ".safetensors"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_theta_travels(name, suffix, tmp_path):
    file = write(tmp_path / f"theta{suffix}", PUBLISHED[name])
    imported = import_file(file, name)
    save_file(imported.checkpoint, tmp_path / "ours.safetensors")

    ours = flat(read(tmp_path / "ours.safetensors").theta)
    published = as_ours(PUBLISHED[name])
    # Every array is there once, whatever it is called.
    theirs = {np.ascontiguousarray(x).tobytes() for x in published}
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


def test_weights_that_are_stored_by_groups_are_joined(tmp_path):
    theta = PUBLISHED["velo"]
    ours = flat(import_file(write(tmp_path / "v.state", theta), "velo").checkpoint.theta)
    np.testing.assert_array_equal(
        ours["network/w0"][:, :, 3:6],
        np.swapaxes(theta["ff_mod_stack/~/w0__3"], 1, 2),
    )
    for name, theirs in (("shared", "linear_1"), ("own", "linear_2")):
        np.testing.assert_array_equal(ours[f"{name}/w"], theta[f"rnn_params/{theirs}/w"])

    rest = {k: x for k, x in theta.items() if not k.endswith("__7")}
    file = write(tmp_path / "less.state", rest)
    with pytest.raises(CheckpointError, match=r"lacks the tensor `ff_mod_stack/~/w0__7`"):
        import_file(file, "velo")
    wrong = {**theta, "ff_mod_stack/~/w0__7": random(3, 3, 9)}
    file = write(tmp_path / "wrong.state", wrong)
    with pytest.raises(CheckpointError, match=r"w0__.* must agree but in"):
        import_file(file, "velo")


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
