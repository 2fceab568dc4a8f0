"""Users' Python files: refused unless trusted, run once, and told with their own line."""

import os

import pytest
from problems import quadratic
from suite_files import QUADRATIC, build, complaint, write

from lopt.config import check_trust, load_suite
from lopt.errors import ConfigError
from lopt.suites import build_tasks


def test_a_file_is_refused_and_not_run_without_trust(tmp_path):
    spy = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
    for entry in ('file = "file.py"', 'family = "file.py:task"'):
        error = complaint(tmp_path, entry, spy + QUADRATIC, trust=False)
        assert "only if trusted" in error.message and "file.py" in error.message
        assert "--trust" in error.hint
    assert not (tmp_path / "ran").exists()
    build(tmp_path, 'file = "file.py"', spy + QUADRATIC, trust=True)
    assert (tmp_path / "ran").exists()


def test_a_file_given_by_itself_is_trusted_and_no_other(tmp_path):
    own, other = (
        write(tmp_path, "own.py", QUADRATIC),
        write(tmp_path, "other.py", QUADRATIC),
    )
    config = load_suite(own, ["tasks.0.noise=0.5"])
    by_hand = check_trust(own, config)
    (built,) = build_tasks(config, trust=by_hand)
    assert built.task.name == "quadratic"
    with pytest.raises(ConfigError, match="only if trusted"):
        build_tasks(config)
    with pytest.raises(ConfigError, match="only if trusted"):
        build_tasks(load_suite(own, [f"tasks.0.file={other}"]), trust=by_hand)


def test_a_file_may_have_several_factories_and_is_run_once(tmp_path):
    python = (
        QUADRATIC
        + """
def other(curvature):
    return dataclasses.replace(quadratic(), name=f"curved-{curvature}")

with open(__file__ + ".log", "a") as log:
    log.write("run ")
"""
    )
    entry = 'file = "file.py"\n[[tasks]]\nfile = "file.py:other"\ncurvature = 3\n'
    tasks = build(tmp_path, entry, python)
    assert [built.task.name for built in tasks] == ["quadratic", "curved-3"]
    log = tmp_path / "file.py.log"
    assert log.read_text() == "run "
    path = tmp_path / "file.py"
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))
    build_tasks(load_suite(tmp_path / "suite.toml"), trust=True)
    assert log.read_text() == "run run "


def test_a_file_may_import_its_neighbor_and_define_dataclasses(tmp_path):
    write(tmp_path, "neighbor_of_task.py", "NOISE = 0.25")
    python = """
        from __future__ import annotations
        from dataclasses import dataclass
        from neighbor_of_task import NOISE
        from problems import quadratic

        @dataclass
        class Options:
            noise: float = NOISE

        def task():
            return quadratic(noise=Options().noise)
    """
    (built,) = build(tmp_path, 'file = "file.py"', python)
    assert built.task.loss is quadratic(noise=0.25).loss


@pytest.mark.parametrize(
    ("python", "line", "reason"),
    [
        ("x = 1\ndef task(:\n", 2, "SyntaxError: invalid syntax"),
        ("import nowhere_to_be_found", 1, "ModuleNotFoundError: No module named"),
        ("def task():\n\n    return 1 / 0", 3, "ZeroDivisionError: division by zero"),
        ("def task():\n    raise ValueError('a\\nb')", 2, "ValueError: a"),
        ("def task():\n    assert False", 2, "AssertionError"),
        ("def task():\n    inner()\ndef inner():\n    {}[1]", 4, "KeyError: 1"),
        (
            "from lopt.data import dataset\n\n\ndef task():\n    dataset('digit')",
            5,
            "unknown dataset `digit`",
        ),
        (
            "import dataclasses\n"
            "from problems import quadratic\n"
            "def loss(params, state, batch, key):\n"
            "    return params['v'], (state, {})\n"
            "def task():\n"
            "    return dataclasses.replace(quadratic(), loss=loss)\n",
            4,
            "KeyError: 'v'",
        ),
    ],
)
def test_faults_of_a_users_file_are_told_with_its_line(tmp_path, python, line, reason):
    error = complaint(tmp_path, python=python)
    assert f"file.py` line {line}: {reason}" in error.message
    if "dataset" in reason:
        assert error.hint == "did you mean `digits`?"


def test_an_option_without_a_default_must_be_given(tmp_path):
    python = "def task(size): pass"
    assert "`tasks.0.size` must be given" in complaint(tmp_path, python=python).message


def test_a_file_without_the_factory_says_what_to_define(tmp_path):
    error = complaint(tmp_path, python="x = 1")
    assert "unknown function of" in error.message and "`task`" in error.message
    assert error.hint == "define `task` in the file"
