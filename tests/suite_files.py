"""Suites and users' files, written for a test."""

import textwrap

import pytest

from lopt.config import load_suite
from lopt.errors import ConfigError
from lopt.suites import build_tasks

QUADRATIC = """
import dataclasses
from problems import quadratic

def task(*, noise=0.0):
    return quadratic(noise=noise)
"""


def write(folder, name, text):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return str(path)


def build(folder, entry, python=QUADRATIC, trust=True):
    """The tasks of a suite of that entry, beside `file.py`."""
    write(folder, "file.py", python)
    suite = write(folder, "suite.toml", f"[[tasks]]\n{entry}")
    return build_tasks(load_suite(suite), trust=trust)


def complaint(folder, entry='file = "file.py"', python=QUADRATIC, trust=True):
    with pytest.raises(ConfigError) as error:
        build(folder, entry, python, trust)
    assert "\n" not in error.value.message
    return error.value
