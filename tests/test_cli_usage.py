"""Usage errors: one line and a hint, before jax is imported."""

import errno
import os
import shlex

import pytest
from processes import WITHOUT_JAX, lopt_process

import lopt
import lopt.cli
import lopt.config
from lopt.cli import listing


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("meta-trian", "no such command `meta-trian`", "did you mean `meta-train`?"),
        ("meta-train --oot x", "no such option: --oot", "did you mean `--out`?"),
        ("meta-train --sed 1", "no such option: --sed", "did you mean `--seed`?"),
        ("meta-train --sett a=1", "no such option: --sett", "did you mean `--set`?"),
        ("meta-train --resum", "no such option: --resum", "did you mean `--resume`?"),
        ("meta-train --form x", "no such option: --form", "did you mean `--from`?"),
        ("meta-train --truts", "no such option: --truts", "did you mean `--trust`?"),
        (
            "meta-train --optimiser x",
            "no such option: --optimiser",
            "did you mean `--optimizer`?",
        ),
        (
            "meta-train --estimater x",
            "no such option: --estimater",
            "did you mean `--estimator`?",
        ),
        (
            "meta-train --device 1",
            "no such option: --device",
            "did you mean `--devices`?",
        ),
        ("evaluate x --suit y", "no such option: --suit", "did you mean `--suite`?"),
        ("evaluate x --trial 3", "no such option: --trial", "did you mean `--trials`?"),
        ("evaluate x --seed 3", "no such option: --seed", "did you mean `--seeds`?"),
        (
            "evaluate x --baselin adam",
            "no such option: --baselin",
            "did you mean `--baseline`?",
        ),
        ("export x --ouut y", "no such option: --ouut", "did you mean `--out`?"),
        ("export x -o y --froce", "no such option: --froce", "did you mean `--force`?"),
        (
            "export x -o y --step lsat",
            "`--step` must be a step's number, `best` or `last`, got 'lsat'",
            "did you mean `last`?",
        ),
        ("export x -o y --stpe 3", "no such option: --stpe", "did you mean `--step`?"),
        (
            "meta-train digits --set selection.suite=digits-selektion",
            "`selection.suite`: unknown suite `digits-selektion`",
            "did you mean `digits-selection`?",
        ),
        ("import x --sa y", "no such option: --sa", "did you mean `--as`?"),
        ("import x --as mlp --ot y", "no such option: --ot", "did you mean `--out`?"),
        ("import x --as mlp --st y", "no such option: --st", "did you mean `--set`?"),
        (
            "import x --as mlp --froce",
            "no such option: --froce",
            "did you mean `--force`",
        ),
        ("import x", "missing option `--as`", "`lopt import --help` lists the options"),
        (
            "import x --as adafc_mlp",
            "unknown architecture to import `adafc_mlp`",
            "did you mean `adafac_mlp`?",
        ),
        (
            "import x --as mlp --set step_mult",
            "`--set` must have the form key=value, got `step_mult`",
            "for example `--set step_mult=0.01`",
        ),
        (
            "import x --as mlp --set hidden_sizes=[3",
            "`hidden_sizes` must have a value in TOML",
            "",
        ),
        ("show x --jsn", "no such option: --jsn", "did you mean `--json`?"),
        ("list suites --jsno", "no such option: --jsno", "did you mean `--json`?"),
        ("list suits", "unknown kind of thing `suits`", "did you mean `suites`?"),
        ("show digts", "unknown suite, file or run `digts`", "did you mean `digits`?"),
        ("export x", "missing option `--out` / `-o`", "`lopt export --help` lists"),
        ("list", "missing argument `KIND`", "`lopt list --help` lists the options"),
        ("meta-train a b", "got unexpected extra argument(s) (b)", "`lopt meta-train"),
        ("meta-train --seed x", "invalid value for `--seed`", "`lopt meta-train --help`"),
        ("meta-train --devices 0", "invalid value for `--devices`", "`lopt meta-train"),
        ("meta-train digts", "unknown suite `digts`", "did you mean `digits`?"),
        ("meta-train no.toml", "cannot read suite `no.toml`", "`lopt list suites`"),
        (
            "meta-train digits --set outer_stesp=3",
            "unknown key `outer_stesp`",
            "did you mean `outer_steps`?",
        ),
        ("meta-train digits --seed -1", "`seed` must not be negative, got -1", ""),
        ("meta-train digits --optimizer=", "`optimizer.name` must not be empty", ""),
        (
            "evaluate x --task wide-2x12",
            "unknown task of suite `digits-heldout` `wide-2x12`",
            "did you mean `wide-2x128`?",
        ),
        ("evaluate x --tusk y", "no such option: --tusk", "did you mean `--task`?"),
        ("evaluate x --budgt 1", "no such option: --budgt", "did you mean `--budget`?"),
        ("show x --pictur y", "no such option: --pictur", "did you mean `--picture`?"),
        ("evaluate x --suite digts", "unknown suite `digts`", "did you mean `digits`?"),
        (
            "evaluate x --suite digits --set outer_stesp=3",
            "unknown key `outer_stesp`",
            "did you mean `outer_steps`?",
        ),
    ],
)
def test_usage_errors_are_told_without_jax(line, message, hint, tmp_path):
    result = lopt_process(*shlex.split(line), cwd=tmp_path, start=WITHOUT_JAX)
    assert result.stderr.startswith(f"error: {message}")
    assert (result.returncode, result.stdout) == (2, "")
    told = result.stderr.rstrip().splitlines()
    assert len(told) == (3 if hint else 1)
    if hint:
        assert told[1] == ""
        assert told[2].startswith(f"hint: {hint}")
    assert list(tmp_path.iterdir()) == []


def test_a_suite_that_names_a_python_file_is_refused_without_jax(tmp_path):
    (tmp_path / "task.py").write_text("open('ran', 'w')")
    (tmp_path / "tiny.toml").write_text('[[tasks]]\nfile = "task.py"\n')
    for command in ("meta-train tiny.toml", "evaluate x --suite tiny.toml"):
        result = lopt_process(*command.split(), cwd=tmp_path, start=WITHOUT_JAX)
        assert result.returncode == 2
        assert "would run the Python file" in result.stderr
        assert "--trust" in result.stderr
    assert not (tmp_path / "ran").exists()


def test_debugging_shows_the_traceback(tmp_path):
    result = lopt_process("list", "suits", cwd=tmp_path, LOPT_DEBUG="1")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "lopt.errors.ConfigError: unknown kind of thing `suits`" in result.stderr


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/metrics.jsonl"),
            "error: cannot use `runs/x/metrics.jsonl`: no space left on device",
        ),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "x"),
            "error: cannot use `x`: permission denied",
        ),
        (ValueError("bad\nthing"), "error: internal error: ValueError: bad"),
    ],
)
def test_what_nobody_expected_is_one_line(fault, message, monkeypatch, capsys):
    def fail():
        raise fault

    monkeypatch.setitem(listing.KINDS, "suites", fail)
    monkeypatch.delenv("LOPT_DEBUG", raising=False)
    assert lopt.cli.run(["list", "suites"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[0] == message


def test_an_interrupt_exits_with_130(monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setitem(listing.KINDS, "suites", interrupt)
    assert lopt.cli.run(["list", "suites"]) == 130
