"""The formats that other projects release weights in: tensors by name, nothing executed.

The format is told by the content, not by the suffix:

* flax msgpack, what `flax.serialization.to_bytes` writes and google/learned_optimization
  and celo save as `theta.state`: a msgpack map, in which the extension types 1 and 3 are
  arrays and scalars (shape, name of the dtype, bytes) and a map with the key
  `__msgpack_chunked_array__` is one large array in pieces (flax/serialization.py);
* safetensors, what PyLO's `MetaMLP.push_to_hub` releases;
* torch files, through torch's own restricted reader alone (`weights_only=True`).

A pickle can run code when it is read, and is refused.
"""

import hashlib
import io
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import safetensors

from lopt.errors import CheckpointError
from lopt.files import hub
from lopt.files.fileformat import METADATA_KEY

_CHUNKED = "__msgpack_chunked_array__"
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3  # flax's extension types

_DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    msgpack.UnpackException,
    safetensors.SafetensorError,
)
"""What damaged bytes can end in, here and in the formats' own readers."""

_ZIP = b"PK\x03\x04"
# The first item of torch's files before 1.6, a number, pickled by protocol 2.
_OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_SAFE_TORCH = (2, 6)  # before, `weights_only` could be escaped: CVE-2025-32434
_MSGPACK_MAPS = {*range(0x81, 0x90), 0xDE, 0xDF}
_PICKLE_SUFFIXES = (".pkl", ".pickle")

_DTYPES = {
    "F16": np.float16, "F32": np.float32, "F64": np.float64, "BOOL": np.bool_,
    "I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64,
    "U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64,
}  # fmt: skip
"""Dtypes by safetensors' names; flax's are numpy's. bfloat16 is decoded by hand."""
_NUMPY_DTYPES = {np.dtype(kind).name: kind for kind in _DTYPES.values()}


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file holds.

    Attributes:
      format: "flax msgpack", "safetensors" or "torch".
      tensors: arrays, and what else stands beside them, by `/`-joined names.
      sha256: of the file.
    """

    format: str
    tensors: dict[str, Any]
    sha256: str


def read(path: Path) -> Contents:
    """The named tensors of a file in any of the formats, or of a folder of the Hub.

    Raises:
      CheckpointError: the file is absent, damaged, a pickle, of another format, or of
        torch's while torch is not installed.
    """
    path = path / hub.WEIGHTS if hub.is_folder(path) else path
    data = _bytes(path)
    name, decode = _format(path, data)
    try:
        tensors = dict(_leaves(decode(data), ""))
    except _Refused as error:
        raise CheckpointError(f"`{path}` {error}", hint=error.hint) from None
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise CheckpointError(
            f"`{path}` is not a whole {name} file: {reason}",
            hint="it may be truncated: copy or download it again",
        ) from error
    return Contents(format=name, tensors=tensors, sha256=hashlib.sha256(data).hexdigest())


class _Refused(Exception):
    """A file that is whole, but not for us."""

    def __init__(self, message: str, hint: str):
        super().__init__(message)
        self.hint = hint


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "name the file inside it" if path.is_dir() else "check the path"
        raise CheckpointError(f"cannot read `{path}`: {reason}", hint=hint) from None
    if not data:
        raise CheckpointError(
            f"`{path}` is empty", hint="copy or download the file again"
        )
    return data


def _format(path: Path, data: bytes) -> tuple[str, Any]:
    """Name and reader of the format that the first bytes show."""
    if data[4:9] == b"\0\0\0\0{":  # the upper half of the header's length, the header
        return "safetensors", _from_safetensors
    if data.startswith(_OLD_TORCH) or _is_torch_zip(data):
        return "torch", _from_torch
    # In msgpack 0x80 is an empty map, which nothing follows.
    is_pickle = data[0] == 0x80 and len(data) > 1
    if is_pickle or (path.suffix in _PICKLE_SUFFIXES and data[0] < 0x80):
        raise CheckpointError(
            f"`{path}` is a pickle, which can run any code when it is read",
            hint="where you trust it, load it yourself and write its theta with "
            "`flax.serialization.to_bytes(theta)`",
        )
    if data[0] in _MSGPACK_MAPS:
        return "flax msgpack", _from_msgpack
    raise CheckpointError(
        f"`{path}` is in none of the formats that lopt imports",
        hint="flax msgpack (`theta.state`), safetensors, or a torch state dict",
    )


def _is_torch_zip(data: bytes) -> bool:
    """Whether a zip is torch's, or so damaged that one cannot tell."""
    if not data.startswith(_ZIP):
        return False
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except zipfile.BadZipFile:
        return True
    return any(name.endswith("/data.pkl") for name in names)


def _leaves(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """The leaves of nested maps, by `/`-joined names; each name once."""
    if not isinstance(tree, Mapping):
        what = f"`{prefix}` is a {type(tree).__name__}" if prefix else "it has no names"
        raise ValueError(f"{what}, not a map")
    seen = set()
    for key, value in tree.items():
        if not isinstance(key, str):
            raise ValueError(f"the name {key!r} is not a string")
        value = _unchunked(value) if isinstance(value, Mapping) else value
        name = f"{prefix}{key}"
        inside = isinstance(value, Mapping)
        for item in _leaves(value, f"{name}/") if inside else ((name, value),):
            if item[0] in seen:
                raise ValueError(f"the name `{item[0]}` comes twice")
            seen.add(item[0])
            yield item


# flax msgpack


def _from_msgpack(data: bytes) -> Any:
    return msgpack.unpackb(data, ext_hook=_extension, raw=False)


def _extension(code: int, data: bytes) -> np.ndarray:
    if code == _COMPLEX:
        raise _Refused("holds a complex number", "theta must be real")
    if code not in (_ARRAY, _SCALAR):
        raise ValueError(f"extension type {code} is not flax's")
    shape, dtype, buffer = msgpack.unpackb(data, raw=True)
    return _array(shape, dtype.decode(), buffer)


def _unchunked(value: Mapping[str, Any]) -> Any:
    """The array that flax cut into pieces; any other map as it is."""
    if _CHUNKED not in value:
        return value
    shape, chunks = (
        [value[key][str(i)] for i in range(len(value[key]))]
        for key in ("shape", "chunks")
    )
    return np.concatenate(chunks).reshape(_shape(shape))


def _array(shape: Any, dtype: str, buffer: bytes | bytearray) -> np.ndarray:
    """An array of a dtype that numpy or safetensors names."""
    if dtype in ("bfloat16", "BF16"):  # the upper half of a float32
        upper = np.frombuffer(buffer, np.uint16).astype(np.uint32)
        return (upper << 16).view(np.float32).reshape(_shape(shape))
    kind = _NUMPY_DTYPES.get(dtype) or _DTYPES.get(dtype)
    if kind is None:
        raise _Refused(
            f"holds an array of dtype {dtype}", "theta must be of floating point numbers"
        )
    return np.frombuffer(buffer, kind).reshape(_shape(shape))


def _shape(sizes: Any) -> list[int]:
    """Sizes that are sizes: numpy would take -1 for any."""
    sizes = list(sizes)
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError(f"{sizes} is not a shape")
    return sizes


# safetensors and torch


def _from_safetensors(data: bytes) -> dict[str, np.ndarray]:
    tensors = safetensors.deserialize(data)
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    if f'"{METADATA_KEY}"'.encode() in header.partition(b'"__metadata__"')[2]:
        raise _Refused("is a file of lopt already", "use it as it is: `lopt show FILE`")
    return {name: _array(x["shape"], x["dtype"], x["data"]) for name, x in tensors}


def _from_torch(data: bytes) -> Any:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise _Refused(
            f"is a torch file, and torch cannot be imported ({error})",
            "`pip install 'lopt[torch]'`, or import safetensors",
        ) from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < _SAFE_TORCH:
        raise _Refused(
            f"is a torch file, and torch {torch.__version__} cannot read it safely",
            "`pip install --upgrade 'lopt[torch]'`",
        )
    try:
        tree = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise _Refused(
            "holds more than tensors, which torch reads only from files that you trust",
            "there, load it yourself and `torch.save` the state dict alone",
        ) from None
    except Exception as error:  # torch has no name for damaged files
        raise ValueError(str(error)) from error
    return _as_arrays(tree, torch)


def _as_arrays(tree: Any, torch: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _as_arrays(value, torch) for key, value in tree.items()}
    if not isinstance(tree, torch.Tensor):
        return tree
    # numpy has neither bfloat16 nor the float8 types.
    tensor = tree.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
