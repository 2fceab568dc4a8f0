"""Installed packages that offer task families and cannot be imported: told in a line."""

import sys

import pytest
from suite_files import complaint

from lopt.suites import GROUP

FAMILY = 'family = "curved"'


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package whose entry point `curved` of GROUP is `curved_family:task`."""
    monkeypatch.syspath_prepend(tmp_path)
    info = tmp_path / "curved_family-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: curved-family\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ncurved = curved_family:task\n")

    yield lambda python: (tmp_path / "curved_family.py").write_text(python)
    sys.modules.pop("curved_family", None)


@pytest.mark.parametrize(
    ("python", "reason"),
    [
        (None, "cannot be imported: ModuleNotFoundError: No module named 'curved_f"),
        ("x = 1", "cannot be imported: AttributeError: module 'curved_family' has no"),
        ("x = 1\n1 / 0", "curved_family.py` line 2: ZeroDivisionError: division by zero"),
        ("def task(:", "curved_family.py` line 1: SyntaxError: invalid syntax"),
        (
            "\nimport nowhere_to_be_found",
            "curved_family.py` line 2: ModuleNotFoundError: No",
        ),
        ("import json\njson.loads('')", "curved_family.py` line 2: JSONDecodeError"),
        ("task = 3", "must be a function, got `int`"),
    ],
)
def test_one_that_cannot_be_imported_is_told_with_its_line(
    tmp_path, install, python, reason
):
    if python is not None:
        install(python)
    message = complaint(tmp_path, FAMILY).message
    assert message.startswith("entry point `curved` (`curved_family:task`) ")
    assert reason in message


def test_what_it_raises_when_called_is_told_with_its_line(tmp_path, install):
    install("def task():\n    return [][0]")
    message = complaint(tmp_path, FAMILY).message
    assert "curved_family.py` line 2: IndexError" in message
