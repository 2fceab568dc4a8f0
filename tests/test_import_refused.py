"""Published files that do not fit are refused in one line that names the tensor."""

import shutil

import numpy as np
import pytest
from published import ADAFAC, DATA, PUBLISHED, flat, random, write

import lopt.cli
from lopt.checkpoint import save_file
from lopt.errors import CheckpointError, ConfigError
from lopt.published.importing import import_file


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
        ({"step_mult": -1}, "`mup_adafac.step_mult` must be positive, got -1"),
        ({"hidden_sizes": [3, 3]}, r"`hidden_sizes` is \[2, 2\] in .*, got \[3, 3\]"),
        (
            {"momentum_decays": [2.0, 0.5, 0.5]},
            r"decays` must be in \[0, 1\), got",
        ),
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


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [("learnable_sgd", "learning_rate", 0.5), ("celo2", "start", "momentum")],
)
def test_what_theta_replaces_cannot_be_set(name, option, value, tmp_path):
    file = write(tmp_path / "x.state", PUBLISHED[name])
    with pytest.raises(ConfigError, match=f"`{option}` only says where"):
        import_file(file, name, {option: value})
    assert option not in import_file(file, name).constants


def test_files_of_lopt_need_no_import(tmp_path):
    imported = import_file(DATA / "meta_mlp.safetensors", "mup_adafac")
    save_file(imported.checkpoint, tmp_path / "ours.safetensors")
    with pytest.raises(CheckpointError, match="is a file of lopt already"):
        import_file(tmp_path / "ours.safetensors", "mup_adafac")


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
