"""The formats of published weights: read whole, or refused in one line; never run.

Files that flax, torch and safetensors themselves wrote are in tests/data.
"""

import io
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path

import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
import safetensors.numpy
from flax_files import flax_bytes

from lopt.errors import CheckpointError, LoptError
from lopt.files.fileformat import flatten
from lopt.published import formats
from lopt.published.importing import import_file

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.asarray([1.5, -2.0], np.float16), [1.5, -2.0]),
        (np.asarray([1.5, 1e-9]), np.float32([1.5, 1e-9])),
        (0.25, 0.25),
        (np.float32(0.25), 0.25),
    ],
)
def test_floats_of_every_kind_become_float32(array, expected, tmp_path):
    (tmp_path / "x.state").write_bytes(flax_bytes({"log_lr": array}))
    found = formats.read(tmp_path / "x.state").tensors["log_lr"]
    np.testing.assert_array_equal(np.float32(found), expected)
    if np.ndim(array) == 0:
        theta = import_file(tmp_path / "x.state", "learnable_sgd").checkpoint.theta
        assert theta["log_lr"].dtype == np.float32
        assert theta["log_lr"] == 0.25


def test_bfloat16_and_arrays_in_pieces(tmp_path):
    tree = {
        "half": jnp.asarray([1.5, -3.0], jnp.bfloat16),
        "large": {
            "__msgpack_chunked_array__": True,
            "shape": {"0": 2, "1": 3},
            "chunks": {"0": np.arange(4.0), "1": np.arange(4.0, 6.0)},
        },
    }
    (tmp_path / "x.state").write_bytes(flax_bytes(tree))
    found = formats.read(tmp_path / "x.state").tensors
    assert found["half"].tolist() == [1.5, -3.0]
    assert found["large"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    header = b'{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    half = struct.pack("<Q", len(header)) + header + b"\xc0\x3f"
    (tmp_path / "half.safetensors").write_bytes(half)
    assert formats.read(tmp_path / "half.safetensors").tensors["a"] == 1.5


def whole(suffix):
    return {
        ".state": lambda: (DATA / "mlp_params.msgpack").read_bytes(),
        ".safetensors": lambda: (DATA / "meta_mlp.safetensors").read_bytes(),
        ".pt": lambda: (DATA / "meta_mlp.pt").read_bytes(),
    }[suffix]()


@pytest.mark.parametrize("suffix", [".state", ".safetensors"])
def test_damaged_files_are_refused_at_every_length(suffix, tmp_path):
    data = whole(suffix)
    file = tmp_path / f"x{suffix}"
    for end in [0, 1, 8, 9, 60, len(data) // 2, len(data) - 1]:
        file.write_bytes(data[:end])
        with pytest.raises(CheckpointError):
            formats.read(file)
    file.write_bytes(data + b"x")
    with pytest.raises(CheckpointError, match="is not a whole"):
        formats.read(file)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("suffix", [".state", ".safetensors"])
def test_flipped_bytes_end_in_our_errors(suffix, seed, tmp_path):
    rng = np.random.default_rng(seed)
    name = "mlp" if suffix == ".state" else "mup_adafac"
    for _ in range(100):
        data = bytearray(whole(suffix))
        for place in rng.integers(0, min(len(data), 400), 3):
            data[place] = rng.integers(256)
        (tmp_path / f"x{suffix}").write_bytes(data)
        try:
            import_file(tmp_path / f"x{suffix}", name)
        except LoptError as error:
            assert error.hint is None or error.hint
            assert "\n" not in error.message


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": 1j}, "holds a complex number"),
        ({"a": np.ones(2, np.complex64)}, "holds an array of dtype complex64"),
        ({"a/b": 1.0, "a": {"b": 2.0}}, "the name `a/b` comes twice"),
        ({"a": b""}, None),
    ],
)
def test_flax_files_that_are_not_theta(tree, message, tmp_path):
    (tmp_path / "x.state").write_bytes(flax_bytes(tree))
    if message is None:
        assert formats.read(tmp_path / "x.state").tensors == tree
        return
    with pytest.raises(CheckpointError, match=message):
        formats.read(tmp_path / "x.state")


def test_an_array_says_its_own_shape(tmp_path):
    packed = msgpack.packb(((-1,), "float32", b"\0" * 8))
    data = msgpack.packb({"a": msgpack.ExtType(1, packed)})
    (tmp_path / "x.state").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"\[-1\] is not a shape"):
        formats.read(tmp_path / "x.state")
    (tmp_path / "x.state").write_bytes(msgpack.packb({"a": msgpack.ExtType(9, b"")}))
    with pytest.raises(CheckpointError, match="extension type 9 is not flax's"):
        formats.read(tmp_path / "x.state")


class Bomb:
    def __reduce__(self):
        return open, (str(Path.cwd() / "ran"), "w")


@pytest.mark.parametrize("name", ["x.pickle", "x.pkl", "theta.state"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_never_read(name, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(pickle.dumps(Bomb(), protocol))
    known = protocol >= 2 or name != "theta.state"
    message = "is a pickle, which can run" if known else "in none of the formats"
    with pytest.raises(CheckpointError, match=message):
        formats.read(Path(name))
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "cannot read `[^`]*`: no such file or directory"),
        (lambda path: path.mkdir(), "cannot read `[^`]*`: is a directory"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("hello, world"), "none of the formats"),
        (lambda path: path.write_bytes(b"\x80"), "none of the formats"),
        (lambda path: np.savez(path.open("wb"), a=1), "none of the formats"),
        (
            lambda path: path.write_bytes(b"\x81\xa1a" + b"\x81\xa1a" * 5000),
            "not a whole",
        ),
    ],
)
def test_what_is_no_file_of_weights(make, message, tmp_path):
    make(tmp_path / "x")
    with pytest.raises(CheckpointError, match=message) as error:
        formats.read(tmp_path / "x")
    assert error.value.hint


# torch


def test_without_torch_its_files_are_refused_with_a_hint(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match="torch cannot be imported") as error:
        formats.read(DATA / "meta_mlp.pt")
    assert "`pip install 'lopt[torch]'`" in error.value.hint


def test_torch_reads_weights_only(monkeypatch):
    """A stand-in, so that this holds where torch is not installed."""
    asked = {}

    def fake_load(file, **options):
        asked.update(options, data=file.read())
        return {}

    fake = types.SimpleNamespace(load=fake_load, Tensor=np.ndarray, __version__="2.6.0")
    monkeypatch.setitem(sys.modules, "torch", fake)
    assert formats.read(DATA / "meta_mlp.pt").tensors == {}
    assert asked.pop("weights_only") is True
    assert asked["data"] == (DATA / "meta_mlp.pt").read_bytes()


def test_a_torch_whose_restricted_reader_has_a_hole_is_not_asked(monkeypatch):
    fake = types.SimpleNamespace(Tensor=np.ndarray, __version__="2.5.1+cpu")
    monkeypatch.setitem(sys.modules, "torch", fake)
    with pytest.raises(CheckpointError, match=r"torch 2.5.1\+cpu cannot read it safely"):
        formats.read(DATA / "meta_mlp.pt")


def test_a_file_of_torch_itself():
    pytest.importorskip("torch", reason="torch is not installed")
    theirs = safetensors.numpy.load_file(DATA / "meta_mlp.safetensors")
    found = formats.read(DATA / "meta_mlp.pt")
    assert found.format == "torch"
    assert found.tensors.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(found.tensors[name], array)


@pytest.mark.parametrize("new", [True, False])
def test_torch_files_of_other_kinds(new, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    state = {k: torch.tensor(v) for k, v in load_safetensors().items()}
    decays = {
        "momentum_decays": torch.tensor([0.1, 0.2, 0.3], dtype=torch.bfloat16),
        "rms_decays": torch.nn.Parameter(torch.tensor([0.25])),
        "adafactor_decays": torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64),
    }
    content = {"state_dict": state, "decays": decays}
    file = tmp_path / "x.pt"
    torch.save(content, file, _use_new_zipfile_serialization=new)
    imported = import_file(file, "mup_adafac")
    assert flatten(imported.checkpoint.theta)["rms_decays"] == 0.25
    assert "theta.rms_decays" not in imported.constants

    torch.save({"a": Bomb()}, file, _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        formats.read(file)
    torch.save({"a": torch.ones(3, dtype=torch.int32)}, file)
    with pytest.raises(CheckpointError, match="none of the tensors of `mlp`"):
        import_file(file, "mlp")


def load_safetensors():
    return safetensors.numpy.load_file(DATA / "meta_mlp.safetensors")


def test_damaged_torch_files(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    data = whole(".pt")
    for end in (10, 500, len(data) - 1):
        (tmp_path / "x.pt").write_bytes(data[:end])
        with pytest.raises(CheckpointError, match="is not a whole torch file"):
            formats.read(tmp_path / "x.pt")


def test_a_zip_of_something_else_is_not_torch(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("readme.txt", "hello")
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="none of the formats"):
        formats.read(tmp_path / "x.pt")
