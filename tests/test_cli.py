"""The command line: help, examples, both streams, and a whole session."""

import json
import os
import pty
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer.main
from processes import ROOT, START, WITHOUT_JAX, lopt_process, process_environment

import lopt
import lopt.cli
import lopt.config
from lopt.cli import evaluate, export, import_, listing, meta_train, show

COMMANDS = {
    "meta-train": meta_train,
    "evaluate": evaluate,
    "export": export,
    "import": import_,
    "show": show,
    "list": listing,
}

TINY = """
outer_steps = 2
[optimizer]
bases = ["adam"]
hidden_sizes = []
[estimator]
num_pairs = 1
[unroll]
length = 5
[[tasks]]
family = "mlp"
width = 4
depth = 1
batch_size = 8
min_steps = 5
max_steps = 10
num_steps = 16
"""


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_help_costs_little_processor_time(tmp_path):
    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    costs = []
    for _ in range(3):
        before = spent()
        assert lopt_process("--help", cwd=tmp_path).returncode == 0
        costs.append(spent() - before)
    assert min(costs) < 0.3


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_goes_to_stdout_and_ends_with_the_examples(command, tmp_path):
    result = lopt_process(*command.split(), "--help", cwd=tmp_path, start=WITHOUT_JAX)
    assert (result.returncode, result.stderr) == (0, "")
    examples = COMMANDS[command].EXAMPLES if command else lopt.cli.EXAMPLES
    shown = [line.strip() for line in result.stdout.splitlines()]
    assert shown[-len(examples) - 1 :] == ["Examples:", *examples]


@pytest.mark.parametrize(
    "example",
    [*lopt.cli.EXAMPLES, *(e for m in COMMANDS.values() for e in m.EXAMPLES)],
)
def test_examples_are_valid_command_lines(example):
    program, name, *arguments = shlex.split(example)
    assert program == "lopt"
    root = typer.main.get_command(lopt.cli.app)
    command = root.commands[name]
    context = command.make_context(name, arguments)
    assert not context.args
    suite = context.params.get("suite")
    if suite is not None and Path(suite).suffix != ".py":
        assert (ROOT / "tasks" / f"{suite}.toml").is_file()
    for override in context.params.get("sets") or []:
        if suite is None:  # `import`: options of an architecture, not keys of a suite
            lopt.config.parse_overrides([override], example="")
        else:
            lopt.config.load_suite("digits", [override])


def test_no_command_shows_help_on_stderr(tmp_path):
    result = lopt_process(cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert "Usage: lopt" in result.stderr


def test_version(tmp_path):
    result = lopt_process("--version", cwd=tmp_path)
    assert result.stdout == f"lopt {lopt.__version__}\n"


def test_lists_go_to_stdout(tmp_path):
    result = lopt_process("list", "suites", cwd=tmp_path, start=WITHOUT_JAX)
    assert (result.returncode, result.stderr) == (0, "")
    assert "digits" in result.stdout
    rows = json.loads(lopt_process("list", "suites", "--json", cwd=tmp_path).stdout)
    assert {"digits", "digits-heldout"} <= {row["name"] for row in rows}
    assert all(row["description"] for row in rows)
    (digits,) = (row for row in rows if row["name"] == "digits")
    digits.pop("description")
    assert digits == {
        "name": "digits", "tasks": 5, "outer_steps": 250, "optimizer": "layerwise",
    }  # fmt: skip


@pytest.mark.parametrize("kind", [k for k in listing.KINDS if k != "checkpoints"])
def test_every_kind_is_listed_with_descriptions(kind, capsys):
    assert lopt.cli.run(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all(row["name"] and row["description"] for row in rows)


def test_tables_in_a_pipe_are_not_cut(suite, tmp_path):
    long = "word " * 60
    suite.write_text(f'description = "{long.strip()}"\n{TINY}name = "{long.strip()}"\n')
    result = lopt_process("show", suite, cwd=tmp_path)
    assert result.stdout.count(long.strip()) == 3
    assert "…" not in result.stdout


def test_baselines_are_given_one_by_one_or_with_commas():
    assert evaluate._names(["adamw", "muon,static", "a.safetensors"]) == [
        "adamw", "muon", "static", "a.safetensors",
    ]  # fmt: skip
    assert evaluate._names(None) is None


def test_keys_that_not_all_tasks_have_share_a_column(capsys):
    tasks = [
        {"name": "a", "width": 8},
        {"name": "b", "width": 9, "form": "plain", "n": 1},
    ]
    show._tasks(tasks)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    header, _, *rows = [words for words in lines if words]
    assert header == ["name", "width", "further"]
    assert rows == [["a", "8"], ["b", "9", "form=plain,", "n=1"]]
    show._tasks([{"name": "a"}, {"name": "b"}])
    assert "further" not in capsys.readouterr().out


def test_show_tells_in_a_line_what_tasks_start_from(capsys):
    start = {"pretrain": {"steps": 9, "seed": 0, "classes": [0]}, "frozen": ["a", "b"]}
    given = {"file": "/x.safetensors", "frozen": [], "fresh": ["c"]}
    show._tasks([{"start": start | {"fresh": []}}, {"start": given}])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    header, _, *rows = [line for line in lines if line]
    told = "pretrained steps=9 classes=[0], frozen a b"
    assert (header, rows) == ("start", [told, "/x.safetensors, fresh c"])


def test_show_prints_the_resolved_suite(suite, tmp_path):
    result = lopt_process("show", suite, "--json", cwd=tmp_path)
    config, shown = lopt.config.load_suite(suite), json.loads(result.stdout)
    assert lopt.config.from_dict(shown["config"]) == config
    (size,) = shown["sizes"]
    assert (size["parameters"], size["tensors"]) == (64 * 4 + 4 + 4 * 10 + 10, 4)
    assert shown["cost"] is None


def test_a_suite_that_is_not_trusted_is_shown_without_sizes(tmp_path):
    command = ("show", ROOT / "tests" / "toy" / "toy.toml")
    result = lopt_process(*command, cwd=tmp_path, start=WITHOUT_JAX)
    assert result.returncode == 0 and "toy.py" in result.stdout
    (told,) = result.stderr.splitlines()
    assert told.startswith("no sizes: suite") and "toy.py" in told and "--trust" in told
    refused = lopt_process(*command, "--cost", cwd=tmp_path, start=WITHOUT_JAX)
    assert (refused.returncode, refused.stdout) == (2, "")
    other = lopt_process("show", tmp_path, "--cost", cwd=tmp_path, start=WITHOUT_JAX)
    assert other.returncode == 2 and "`--cost` is of suites, and" in other.stderr
    shown = lopt_process(*command, "--cost", "--trust", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "for 7 outer steps, 56 inner steps" in shown.stdout
    assert "to compile 1 programs" in shown.stdout


@pytest.mark.parametrize("no_color", [False, True])
def test_color_is_for_terminals_that_want_it(no_color, tmp_path):
    ours, theirs = pty.openpty()
    environment = process_environment(**({"NO_COLOR": "1"} if no_color else {}))
    if not no_color:
        environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-c", START, "list", "suits"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    process.communicate(timeout=60)
    os.close(theirs)
    told = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "unknown kind of thing `suits`" in told
    assert ("\x1b[" in told) != no_color


def test_from_a_suite_to_a_file_and_its_evaluation(suite, tmp_path):
    def run(line, **environment):
        environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
        return lopt_process(*shlex.split(line), cwd=tmp_path, **environment)

    trained = run("meta-train tiny.toml --out run --set keep_checkpoints=1")
    assert (trained.returncode, trained.stdout) == (0, "run\n"), trained.stderr
    assert "step 2 of 2, meta-loss" in trained.stderr
    assert "hint: `lopt evaluate run`" in trained.stderr
    assert list((tmp_path / "cache" / "lopt" / "xla").iterdir())

    again = run("meta-train tiny.toml --out run")
    assert again.returncode == 2
    assert again.stderr.startswith("error: `run` exists already\n\nhint: ")
    resumed = run("meta-train tiny.toml --out run --resume --set keep_checkpoints=1")
    assert (resumed.returncode, resumed.stdout) == (0, "run\n")
    assert "`run` is finished" in resumed.stderr

    shown = json.loads(run("show run --json").stdout)
    assert shown["config"]["keep_checkpoints"] == 1
    assert shown["last"]["step"] == 2
    assert "2 of 2 meta-training steps" in run("show run").stdout

    exported = run("export run -o a.safetensors")
    assert (exported.returncode, exported.stdout) == (0, "a.safetensors\n")
    content = (tmp_path / "a.safetensors").read_bytes()
    assert run("export run -o a.safetensors").returncode != 0
    assert (tmp_path / "a.safetensors").read_bytes() == content
    header = json.loads(run("show a.safetensors --json").stdout)
    assert header["optimizer"] == "layerwise"
    told = run("show a.safetensors").stdout
    assert "learned optimizer `layerwise`" in told
    assert "adam 100%" in told
    assert header["card"]["outer_steps"] == 2
    assert sum(np.prod(s) for s in header["tensors"].values()) == header["num_weights"]

    line = "evaluate a.safetensors --suite tiny.toml --baseline adam --budget 1 --json"
    line += " --trials 1 --seeds 2 --out evaluation"
    evaluated = run(line)
    assert evaluated.returncode == 0, evaluated.stderr
    results = json.loads(evaluated.stdout)
    assert results == json.loads((tmp_path / "evaluation/results.json").read_text())
    assert "<html" in (tmp_path / "evaluation/report.html").read_text()
    assert results["settings"]["baselines"] == ["adam"]
    refused = run(line)
    assert refused.returncode == 2
    assert "exists already" in refused.stderr
    assert "--force" in refused.stderr
