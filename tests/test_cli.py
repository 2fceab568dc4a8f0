"""The command line as a process: exit codes, both streams, hints, examples."""

import errno
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

import lopt
import lopt.cli
import lopt.config
from lopt.cli import evaluate, export, import_, listing, meta_train, show

ROOT = Path(lopt.__file__).parents[1]
START = "from lopt.cli import main; main()"
WITHOUT_JAX = f"""
import sys
class Refuse:
    def find_spec(name, path, target=None):
        assert name not in ("jax", "numpy", "optax"), name
sys.meta_path.insert(0, Refuse)
{START}
"""
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


def lopt_process(*arguments, cwd, start=START, **environment):
    """A finished process of the command line."""
    return subprocess.run(
        [sys.executable, "-c", start, *map(str, arguments)],
        cwd=cwd,
        env=process_environment(**environment),
        capture_output=True,
        text=True,
        timeout=300,
    )


def process_environment(**extra):
    inherited = {k: v for k, v in os.environ.items() if k not in ("LOPT_DEBUG",)}
    return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **extra}


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


def test_a_suite_that_names_a_python_file_is_refused_without_jax(suite, tmp_path):
    (tmp_path / "task.py").write_text("open('ran', 'w')")
    suite.write_text('[[tasks]]\nfile = "task.py"\n')
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


def test_lists_go_to_stdout(tmp_path):
    result = lopt_process("list", "suites", cwd=tmp_path, start=WITHOUT_JAX)
    assert (result.returncode, result.stderr) == (0, "")
    assert "digits" in result.stdout
    rows = json.loads(lopt_process("list", "suites", "--json", cwd=tmp_path).stdout)
    assert {"digits", "digits-heldout"} <= {row["name"] for row in rows}
    assert all(row["description"] for row in rows)


@pytest.mark.parametrize("kind", [k for k in listing.KINDS if k != "checkpoints"])
def test_every_kind_is_listed_with_descriptions(kind, capsys):
    assert lopt.cli.run(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all(row["name"] and row["description"] for row in rows)


def test_tables_in_a_pipe_are_not_cut(suite, tmp_path):
    long = "word " * 60
    suite.write_text(f'description = "{long.strip()}"\n{TINY}note = "{long.strip()}"\n')
    result = lopt_process("show", suite, cwd=tmp_path, start=WITHOUT_JAX)
    assert result.stdout.count(long.strip()) == 2
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


def test_show_prints_the_resolved_suite(suite, tmp_path):
    result = lopt_process("show", suite, "--json", cwd=tmp_path, start=WITHOUT_JAX)
    config = lopt.config.load_suite(suite)
    assert lopt.config.from_dict(json.loads(result.stdout)) == config


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


@pytest.mark.parametrize(
    ("argument", "environment", "devices"),
    [
        ("3", {}, 3),
        ("3", {"JAX_NUM_CPU_DEVICES": "2"}, 3),
        ("None", {"JAX_NUM_CPU_DEVICES": "2"}, 2),
        ("None", {}, min(os.cpu_count(), 8)),
    ],
)
def test_the_process_is_set_up_as_the_user_says(argument, environment, devices, tmp_path):
    start = f"""
import jax
from lopt.cli.process import set_up
set_up({argument})
print(len(jax.devices("cpu")), jax.config.jax_compilation_cache_dir)
"""
    inherited = {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": "/c", **environment}
    result = lopt_process(cwd=tmp_path, start=start, **inherited)
    assert result.stdout.split() == [str(devices), "/c/lopt/xla"], result.stderr


def test_a_cache_that_the_user_chose_is_kept(tmp_path):
    start = """
import jax
from lopt.cli.process import set_up
set_up()
print(jax.config.jax_compilation_cache_dir)
"""
    chosen = str(tmp_path / "mine")
    result = lopt_process(cwd=tmp_path, start=start, JAX_COMPILATION_CACHE_DIR=chosen)
    assert result.stdout.strip() == chosen
