"""What is wrong with an `.npz` is one line: the file, the rule, the value."""

import struct
import zipfile

import numpy as np
import pytest
from disk_sets import complaint, refused, table

from lopt import disk
from lopt.errors import ConfigError


def with_value(value, kind=float):
    x = table()[0].astype(kind)
    x[7, 2] = value
    return x


T, C = table()
OBJECTS = np.array([{}] * 40, dtype=object)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": T}, "must have an array `y`, got x"),
        ({"x": T, "y": C, "y_test": C}, "must have an array `x_test`, got x, y, y_test"),
        (
            {"x_train": T, "y_train": C},
            "must have an array `x`, got x_train, y_train",
        ),
        ({"x": with_value(np.nan), "y": C}, "1e+18, got nan in example 7"),
        ({"x": with_value(-np.inf, np.float16), "y": C}, "1e+18, got -inf in example 7"),
        ({"x": with_value(-2e18), "y": C}, "1e+18, got -2e+18 in example 7"),
        ({"x": T, "y": with_value(np.nan)[:, 2]}, "in `y` finite numbers"),
        ({"x": OBJECTS, "y": C}, "must have numbers in `x`, got objects"),
        ({"x": T, "y": OBJECTS}, "must have numbers in `y`, got objects"),
        ({"x": T.astype(str), "y": C}, "`x` of"),
        (
            {"x": T > 0, "y": C},
            "must be numbers of shape [N, D], [N, H, W] or [N, H, W, C]",
        ),
        ({"x": T + 1j, "y": C}, "got complex128[40, 4]"),
        ({"x": T[:, 0], "y": C}, "got float64[40]"),
        ({"x": T[:, :, None, None, None], "y": C}, "got float64[40, 4, 1, 1, 1]"),
        ({"x": np.float64(3), "y": C}, "got float64[]"),
        ({"x": T, "y": C[:, None]}, "must be integers of shape [N]"),
        ({"x": T, "y": C > 0}, "got bool[40]"),
        ({"x": T, "y": T[:, :, None]}, "got float64[40, 4, 1]"),
        ({"x": T, "y": C[:39]}, "must have labels for 40 examples, got 39"),
        ({"x": T, "y": C - 1}, "got -1 but no 0"),
        ({"x": T, "y": np.full(40, 2.0)}, "must have targets that differ, got all alike"),
        ({"x": T, "y": T[:, :0]}, "must have examples, got"),
        ({"x": T[:0], "y": C[:0].astype(float)}, "must have examples, got"),
        ({"x": T, "y": C, "x_test": T[:, :3], "y_test": C}, "must have `x` like that"),
        ({"x": T, "y": C, "x_test": T, "y_test": T[:, 0]}, "must have `y` like that"),
        (
            {"x": T, "y": C, "x_test": C[:, None] + 0 * C[:4], "y_test": C},
            "`x` like that",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    refused(tmp_path / "set.npz", f"{tmp_path}/set.npz`", message)


@pytest.mark.parametrize("pack", [np.savez, np.savez_compressed])
def test_npz_damaged_anywhere(tmp_path, pack):
    """No byte that is lost or changed ends in anything but our own line."""
    path = tmp_path / "set.npz"
    pack(path, x=T[:20].astype(np.float16), y=C[:20])
    whole, clean = path.read_bytes(), disk.read(str(path))
    for place in range(len(whole)):
        path.write_bytes(whole[:place])
        assert str(path) in complaint(path).message
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        )
        try:  # some bytes say nothing, such as dates
            read = disk.read(str(path))
        except ConfigError as error:
            assert str(path) in error.message
            assert "\n" not in error.message
        else:
            np.testing.assert_array_equal(read.x, clean.x)
            np.testing.assert_array_equal(read.y, clean.y)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }",
            "96 bytes in `x`",
        ),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-40, 4), }", "`x`"),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (10**9, 4), }", "npz file"),
        (
            "{'descr': '<f8', 'fortran_order': False, 'shape': (9000000000, 4), }",
            "must have 288000000000 bytes in `x`, as its header states, got 1280",
        ),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (40, 4), }", "got objects"),
        ("{'descr': '<f8', 'shape': (40, 4), }", "is not a whole npz file"),
        (
            "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (40, 4), }",
            "numbers",
        ),
        ("__import__('os').system('true')", "is not a whole npz file"),
    ],
)
def test_npz_with_a_header_that_lies(tmp_path, header, message):
    path = tmp_path / "set.npz"
    np.savez(path, y=C)
    header = header.encode() + b"\n"
    with zipfile.ZipFile(path, "a") as file:
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
        file.writestr("x.npy", start + header + T.tobytes())
    refused(path, str(path), message)
