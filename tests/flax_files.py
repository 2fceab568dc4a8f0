"""Flax's msgpack format, written without flax; tests/data has a file of flax itself."""

import msgpack
import numpy as np


def flax_bytes(tree) -> bytes:
    """What `flax.serialization.to_bytes` writes for nested dicts of arrays."""
    return msgpack.packb(tree, default=_extension, strict_types=True)


def _extension(value):
    code = 3 if isinstance(value, np.generic) else 1
    if isinstance(value, complex):
        return msgpack.ExtType(2, msgpack.packb((value.real, value.imag)))
    array = np.asarray(value)
    packed = msgpack.packb((array.shape, array.dtype.name, array.tobytes()))
    return msgpack.ExtType(code, packed)


def nested(flat: dict) -> dict:
    """Names with `/` as nested dicts, as flax has them where haiku does not join them."""
    tree = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        part = tree
        for key in path:
            part = part.setdefault(key, {})
        part[last] = value
    return tree
