"""Runs: bitwise resume, kills, signals, folders that are in use, full disks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import optax
import optax.contrib
import pytest
from jax.experimental.compilation_cache import compilation_cache

from lopt.checkpoint import load_theta, read, save_file
from lopt.config import load_suite
from lopt.errors import CheckpointError, ConfigError
from lopt.files import fileformat, rundir, snapshots
from lopt.run import Interrupted, build, meta_train
from lopt.run.outer_optimizer import outer_optimizer

TOY = Path(__file__).parent / "toy" / "toy.toml"
TIMINGS = ("seconds", "inner_steps_per_second")
STEPS = 7
CACHE = {
    "jax_compilation_cache_dir": "",
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


class Recorder:
    """A `Progress` that remembers, and may do something after a step."""

    def __init__(self, after_step=lambda step: None):
        self.notes, self.programs, self.steps, self.selections = [], [], [], []
        self.after_step = after_step

    def note(self, text):
        self.notes.append(text)

    def compiled(self, done, total):
        self.programs.append((done, total))

    def stepped(self, metrics, outer_steps):
        self.steps.append((metrics["step"], outer_steps))
        self.after_step(metrics["step"])

    def selected(self, selection):
        self.selections.append(selection)


def toy_run(out, **options):
    return meta_train(TOY, out=out, trust=True, **options)


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """A folder of compiled programs: the same one is not compiled in each test."""
    folder = tmp_path_factory.mktemp("compiled")
    before = {name: getattr(jax.config, name) for name in CACHE}
    for name, value in {**CACHE, "jax_compilation_cache_dir": str(folder)}.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


OUTER = (
    f"selection.suite={TOY.parent / 'selection.toml'}",
    "selection.share=1.0",
    "selection.seeds=2",
    "outer_optimizer.average=0.7",
    "outer_optimizer.normalize_tasks=true",
)


def outer_run(out, **options):
    """With selection, average and normalized tasks."""
    return toy_run(out, overrides=OUTER, **options)


@pytest.fixture(scope="module")
def selecting(tmp_path_factory):
    """An uninterrupted run of that kind; not to be changed."""
    return outer_run(tmp_path_factory.mktemp("selecting") / "run")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """An uninterrupted run; not to be changed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    return toy_run(folder)


def untimed(folder):
    lines = rundir.read_metrics(folder) + rundir.read_selection(folder)
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def saved_arrays(folder, step):
    return snapshots._read(folder / rundir.CHECKPOINTS / str(step))


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_same_run(folder, other, step=STEPS):
    """Bit for bit: everything in the last snapshot, and all metrics but timings."""
    one, two = saved_arrays(folder, step), saved_arrays(other, step)
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].tobytes() == two[name].tobytes(), name
    assert untimed(folder) == untimed(other)


def test_a_run_explains_itself(straight):
    folder = straight.folder
    assert rundir.read_config(folder) == load_suite(TOY)
    record = json.loads((folder / "run.json").read_text())
    assert record["seed"] == 0
    assert record["versions"]["jax"] == jax.__version__
    lines = rundir.read_metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines == list(straight.metrics)
    assert lines[0]["task_losses"] == {"toy": pytest.approx(lines[0]["loss"])}
    assert all(line["inner_steps"] == 2 * 2 * 2 for line in lines)
    assert all(line["seconds"] > 0 for line in lines)


def test_checkpoints_are_pruned_and_the_last_step_is_saved(straight):
    assert snapshots.steps(straight.folder / rundir.CHECKPOINTS) == [6, STEPS]


def test_theta_moves_and_is_what_the_folder_holds(straight):
    theta = load_theta(straight.folder, trust=True)
    np.testing.assert_array_equal(
        theta["log"]["rate"], straight.theta["log"]["rate"], strict=True
    )
    assert np.all(np.asarray(theta["log"]["rate"]) != 0)


def test_in_memory_is_the_same_run(straight):
    run = meta_train(TOY, trust=True)
    assert run.folder is None
    np.testing.assert_array_equal(run.theta["log"]["rate"], straight.theta["log"]["rate"])


def test_seed_and_overrides_reach_the_run():
    run = meta_train(TOY, trust=True, seed=5, overrides=["outer_steps=2"])
    assert (run.config.seed, len(run.metrics)) == (5, 2)
    other = meta_train(TOY, trust=True, seed=6, overrides=["outer_steps=2"])
    assert run.metrics[0]["loss"] != other.metrics[0]["loss"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_continues_bitwise(straight, tmp_path, signum):
    folder = tmp_path / "run"
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    kill = Recorder(lambda step: step == 4 and os.kill(os.getpid(), signum))
    with pytest.raises(Interrupted) as caught:
        toy_run(folder, progress=kill)
    assert caught.value.exit_code == 128 + signum
    assert "--resume" in caught.value.hint
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    (step,) = set(snapshots.steps(folder / rundir.CHECKPOINTS)) - {3}
    assert 4 <= step < STEPS
    assert f"after step {step} of {STEPS}" in caught.value.message
    resumed = toy_run(folder, resume=True)
    assert_same_run(folder, straight.folder)
    assert resumed.metrics[: step - 1] != ()
    sessions = rundir.read_json(folder / rundir.RECORD)["sessions"]
    assert [s["from_step"] for s in sessions] == [0, step]


def test_selections_are_in_the_run(selecting):
    lines = rundir.read_selection(selecting.folder)
    assert lines == list(selecting.selection)
    assert [line["step"] for line in lines] == [3, 6, STEPS]
    assert {*lines[0]["scores"]} == {"raw", "average"}
    scores = {(s, line["step"]): x for line in lines for s, x in line["scores"].items()}
    weights, step = min(scores, key=scores.__getitem__)
    assert lines[-1]["selected"] == {
        "step": step,
        "weights": weights,
        "score": scores[weights, step],
    }
    spent = sum(line["inner_steps"] for line in lines)
    assert spent <= sum(line["inner_steps"] for line in selecting.metrics)
    session = rundir.read_json(selecting.folder / rundir.RECORD)["sessions"][0]
    assert session["selection_compile_seconds"] <= session["compile_seconds"]
    saved = saved_arrays(selecting.folder, STEPS)
    assert {"average/log/rate", "task_scales/number", "selected/theta/log/rate"} <= {
        *saved
    }


def test_selection_does_not_change_theta(selecting, tmp_path):
    plain = [x for x in OUTER if not x.startswith("selection.")]
    toy_run(tmp_path / "run", overrides=plain)
    one = saved_arrays(tmp_path / "run", STEPS)
    two = saved_arrays(selecting.folder, STEPS)
    assert {*two} - {*one} == {name for name in two if name.startswith("selected/")}
    for name in one:
        assert one[name].tobytes() == two[name].tobytes(), name


def test_in_memory_the_same_is_selected(selecting):
    run = meta_train(TOY, trust=True, overrides=OUTER)
    scores = [line["scores"] for line in selecting.selection]
    assert [line["scores"] for line in run.selection] == scores
    np.testing.assert_array_equal(
        run.theta["log"]["rate"], selecting.theta["log"]["rate"]
    )


def test_a_share_that_allows_no_selection_is_told(tmp_path):
    recorder, small = Recorder(), [*OUTER, "selection.share=0.01"]
    run = toy_run(tmp_path / "run", overrides=small, progress=recorder)
    assert recorder.selections == [] and run.selection == ()
    assert "more than `selection.share` = 0.01" in recorder.notes[0]
    np.testing.assert_array_equal(  # the average, for want of anything selected
        run.theta["log"]["rate"], saved_arrays(run.folder, STEPS)["average/log/rate"]
    )
    loaded = load_theta(run.folder, trust=True)
    np.testing.assert_array_equal(run.theta["log"]["rate"], loaded["log"]["rate"])


@pytest.mark.parametrize("at", [4, 6])
def test_a_signal_in_a_run_that_selects_changes_no_bits(selecting, tmp_path, at):
    """Between checkpoints, where a snapshot but no selection is due, and at one."""
    folder = tmp_path / "run"
    kill = Recorder(lambda step: step == at and os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        outer_run(folder, progress=kill)
    assert snapshots.steps(folder / rundir.CHECKPOINTS)[-1] == (5 if at == 4 else 6)
    outer_run(folder, resume=True)
    assert_same_run(folder, selecting.folder)


def test_killed_between_a_selection_and_its_snapshot_it_resumes_bitwise(
    selecting, tmp_path, compiled
):
    """SIGKILL, when selection.jsonl has a line that no snapshot knows of."""
    folder = tmp_path / "run"
    process = start(folder, compiled, *OUTER, program=KILLED)
    _, said = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, said
    assert [line["step"] for line in rundir.read_selection(folder)] == [3, 6]
    assert snapshots.steps(folder / rundir.CHECKPOINTS) == [3]
    outer_run(folder, resume=True)
    assert_same_run(folder, selecting.folder)


def test_runs_outside_the_main_thread(tmp_path):
    """Where Python allows no signal handlers."""
    runs = []
    thread = threading.Thread(
        target=lambda: runs.append(toy_run(tmp_path / "run", progress=Recorder()))
    )
    thread.start()
    thread.join()
    assert len(runs[0].metrics) == STEPS


def test_lines_after_the_restored_step_are_dropped(straight, tmp_path):
    """As a SIGKILL leaves them: steps beyond the snapshot, the last line cut."""
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    shutil.rmtree(folder / rundir.CHECKPOINTS / str(STEPS))
    metrics = folder / rundir.METRICS
    metrics.write_bytes(metrics.read_bytes() + b'{"step": 8, "lo')
    recorder = Recorder()
    toy_run(folder, resume=True, progress=recorder)
    assert recorder.steps == [(STEPS, STEPS)]
    assert_same_run(folder, straight.folder)


def test_leftovers_of_a_kill_while_saving_are_no_snapshots(straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    checkpoints = folder / rundir.CHECKPOINTS
    shutil.move(checkpoints / str(STEPS), checkpoints / f".saving-{STEPS}")
    (checkpoints / ".trash-3" / "d").mkdir(parents=True)
    assert snapshots.steps(checkpoints) == [6]
    toy_run(folder, resume=True)
    assert_same_run(folder, straight.folder)
    assert {p.name for p in checkpoints.iterdir()} == {"6", str(STEPS)}


PROCESS = """
import sys
from lopt.errors import LoptError
from lopt.run import meta_train
try:
    meta_train(sys.argv[1], out=sys.argv[2], overrides=sys.argv[3:], resume=True,
               trust=True)
except LoptError as error:
    print(error.message, error.hint, file=sys.stderr)
    sys.exit(error.exit_code)
"""


KILLED = """
import os, signal, sys
from lopt.run import loop, meta_train
class Killer(loop.Silent):
    def selected(self, selection):
        if selection["step"] == 6:
            os.kill(os.getpid(), signal.SIGKILL)
meta_train(sys.argv[1], out=sys.argv[2], overrides=sys.argv[3:], trust=True,
           progress=Killer())
"""


def start(folder, compiled, *overrides, program=PROCESS):
    command = [sys.executable, "-c", program, str(TOY), str(folder), *overrides]
    settings = {
        **CACHE,
        "jax_compilation_cache_dir": compiled,
        # Sums over pairs are rounded differently on another number of devices.
        "jax_num_cpu_devices": len(jax.devices()),
    }
    given = {name.upper(): str(value) for name, value in settings.items()}
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | given
    )


def wait_for_snapshot(process, folder, step):
    deadline = time.monotonic() + 120
    while not any(s >= step for s in snapshots.steps(folder / rundir.CHECKPOINTS)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


MANY = 60


def test_killed_processes_resume_bitwise(tmp_path, compiled):
    """SIGKILL at whatever moment, twice, then SIGTERM, then to the end."""
    overrides = (f"outer_steps={MANY}", "checkpoint_every=1")
    folder = tmp_path / "killed"
    for step, signum in ((3, signal.SIGKILL), (9, signal.SIGKILL), (15, signal.SIGTERM)):
        process = start(folder, compiled, *overrides)
        wait_for_snapshot(process, folder, step)
        process.send_signal(signum)
        _, said = process.communicate(timeout=120)
        if signum == signal.SIGTERM:
            assert process.returncode == 128 + signum
            assert "--resume" in said
        else:
            assert process.returncode == -signum
    assert snapshots.steps(folder / rundir.CHECKPOINTS)[-1] < MANY
    process = start(folder, compiled, *overrides)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    toy_run(tmp_path / "straight", overrides=[f"outer_steps={MANY}"])
    assert_same_run(folder, tmp_path / "straight", MANY)


def test_resume_without_a_run_starts_and_says_so(straight, tmp_path):
    recorder = Recorder()
    toy_run(tmp_path / "run", resume=True, progress=recorder)
    assert "step 0" in recorder.notes[0]
    assert_same_run(tmp_path / "run", straight.folder)


def test_resume_without_a_complete_checkpoint_starts_and_says_so(straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    for step in (6, STEPS):
        shutil.rmtree(folder / rundir.CHECKPOINTS / str(step))
    recorder = Recorder()
    toy_run(folder, resume=True, progress=recorder)
    assert "no complete checkpoint" in recorder.notes[0]
    assert_same_run(folder, straight.folder)


def test_a_finished_run_is_left_unchanged(straight):
    before = contents(straight.folder)
    recorder = Recorder()
    run = toy_run(straight.folder, resume=True, progress=recorder)
    assert contents(straight.folder) == before
    assert "finished" in recorder.notes[0]
    assert recorder.programs == []
    assert run.metrics == straight.metrics


def test_an_existing_run_is_refused_without_resume(straight):
    before = contents(straight.folder)
    with pytest.raises(ConfigError, match="exists already") as caught:
        toy_run(straight.folder)
    assert "--resume" in caught.value.hint
    assert contents(straight.folder) == before


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seed=9", "seed"),
        ("outer_steps=8", "outer_steps"),
        ("estimator.sigma=0.1", "estimator.sigma"),
        ("tasks.0.max_steps=8", "tasks.0.max_steps"),
    ],
)
def test_another_configuration_is_refused(straight, override, key):
    before = contents(straight.folder)
    with pytest.raises(ConfigError, match=f"another `{key}`"):
        toy_run(straight.folder, resume=True, overrides=[override])
    assert contents(straight.folder) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_something_else_is_refused(tmp_path, resume):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError):
        toy_run(tmp_path, resume=resume)
    assert contents(tmp_path) == {"thesis.tex": b"precious"}


def test_a_file_as_folder_is_refused(tmp_path):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(ConfigError, match="is a file"):
        toy_run(tmp_path / "run", resume=True)


def test_resume_needs_a_folder():
    with pytest.raises(ConfigError, match="needs the folder"):
        meta_train(TOY, trust=True, resume=True)


def test_python_files_of_a_suite_need_trust(tmp_path):
    with pytest.raises(ConfigError, match="Python file"):
        meta_train(TOY, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("optimizer.name=layerwize", "layerwize"),
        ("optimizer.ratte=1.0", "ratte"),
        ("optimizer.rate=fast", "rate"),
        ("estimator.name=nrse", "nrse"),
        ("estimator.num_pears=2", "num_pears"),
        ("outer_optimizer.name=adamm", "adamm"),
        ("outer_optimizer.name=lbfgs", "cannot train theta"),
        ("outer_optimizer.name=contrib.moun", "moun"),
        ("outer_optimizer.learning_rat=1", "learning_rat"),
        ("outer_optimizer.b1=high", "cannot train theta"),
        ("outer_optimizer.schedule=exponential", "decay_rate` must be given"),
        ("outer_optimizer.schedule_options.alhpa=1", "alhpa"),
        ("outer_optimizer.nesterov=3", "nesterov"),
    ],
)
def test_factory_options_are_checked_before_anything_happens(tmp_path, override, match):
    recorder = Recorder()
    with pytest.raises(ConfigError, match=match):
        toy_run(tmp_path / "run", overrides=[override], progress=recorder)
    assert recorder.programs == []
    assert not (tmp_path / "run").exists()


def test_from_starts_at_the_given_theta(straight, tmp_path):
    file = tmp_path / "toy.safetensors"
    save_file(read(straight.folder, trust=True), file)
    frozen = ["outer_steps=1", "outer_optimizer.learning_rate=1e-30"]
    for source in (straight.folder, file, straight.folder / "checkpoints" / "7"):
        run = meta_train(TOY, trust=True, start_from=source, overrides=frozen, seed=3)
        np.testing.assert_array_equal(
            run.theta["log"]["rate"], straight.theta["log"]["rate"]
        )


def test_from_takes_options_that_the_suite_does_not_give(tmp_path):
    start = meta_train(
        TOY,
        out=tmp_path / "start",
        trust=True,
        overrides=["optimizer.num_rates=3", "optimizer.rate=0.2", "outer_steps=1"],
    )
    options = {"outer_steps": 2, "checkpoint_every": 1}
    overrides = [f"{key}={value}" for key, value in options.items()]
    stop = Recorder(lambda step: step == 1 and os.kill(os.getpid(), signal.SIGINT))
    command = dict(start_from=start.folder, overrides=overrides)
    run = toy_run(tmp_path / "run", **command)
    assert run.config.optimizer.options == {"num_rates": 3, "rate": 0.2}
    with pytest.raises(Interrupted):
        long = [*overrides, "outer_steps=50"]
        toy_run(tmp_path / "two", start_from=start.folder, overrides=long, progress=stop)
    with pytest.raises(ConfigError, match="another `--from`"):
        toy_run(tmp_path / "two", resume=True, overrides=long)
    shutil.rmtree(start.folder)  # the same command works where the start is gone
    toy_run(tmp_path / "two", resume=True, start_from=start.folder, overrides=long)


def test_from_refuses_other_shapes_and_other_optimizers(straight):
    with pytest.raises(ConfigError, match="`log/rate` has shape"):
        meta_train(
            TOY,
            trust=True,
            start_from=straight.folder,
            overrides=["optimizer.num_rates=4"],
        )
    with pytest.raises(ConfigError, match="weights of"):
        meta_train(
            TOY,
            trust=True,
            start_from=straight.folder,
            overrides=["optimizer.name=layerwise"],
        )


def test_a_disk_that_refuses_leaves_the_last_snapshot(straight, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setattr(
        snapshots.os, "replace", fail_from(3, snapshots.os.replace, "checkpoints/")
    )
    with pytest.raises(CheckpointError, match="no space left on device") as caught:
        toy_run(folder, overrides=["checkpoint_every=1"])
    assert "--resume" in caught.value.hint
    checkpoints = folder / rundir.CHECKPOINTS
    assert snapshots.steps(checkpoints) == [1, 2]
    assert {path.name for path in checkpoints.iterdir()} == {"1", "2"}
    monkeypatch.undo()
    toy_run(folder, overrides=["checkpoint_every=1"], resume=True)
    assert untimed(folder) == untimed(straight.folder)


def fail_from(number, replace, where):
    """`os.replace` that finds the disk full from its n-th snapshot on."""
    calls = []

    def full(source, target):
        if f"{where}.saving" in str(source):
            calls.append(source)
            if len(calls) >= number:
                raise OSError(28, "No space left on device")
        return replace(source, target)

    return full


def test_a_non_finite_meta_loss_is_counted_and_not_fatal(tmp_path):
    run = toy_run(tmp_path / "run", overrides=["optimizer.rate=1e30"])
    assert sum(line["num_diverged"] for line in run.metrics) > 0
    assert np.all(np.isfinite(run.theta["log"]["rate"]))
    for line in (tmp_path / "run" / rundir.METRICS).read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # NaN is no JSON


def test_outer_optimizer_is_the_one_asked_for():
    config = load_suite(
        TOY,
        [
            "outer_steps=10",
            "outer_optimizer.name=sgd",
            "outer_optimizer.learning_rate=0.5",
            "outer_optimizer.warmup_steps=2",
            "outer_optimizer.clip_norm=1.0",
        ],
    )
    optimizer = outer_optimizer(config.outer_optimizer, config.outer_steps)
    theta = {"a": np.float32(0)}
    state = optimizer.init(theta)
    rates = []
    for _ in range(11):
        updates, state = optimizer.update({"a": np.float32(-4)}, state, theta)
        rates.append(float(updates["a"]))
    cosine = [0.25 * (1 + np.cos(np.pi * t / 8)) for t in range(9)]
    np.testing.assert_allclose(rates, [0.0, 0.25, *cosine], atol=1e-6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], optax.adam(0.5)),
        (["name=adamw", "weight_decay=0.1"], optax.adamw(0.5, weight_decay=0.1)),
        (["name=sgd", "momentum=0.9", "nesterov=true"], optax.sgd(0.5, 0.9, True)),
        (["name=contrib.muon"], optax.contrib.muon(0.5)),
        (
            ["schedule=linear"],
            optax.adam(optax.linear_schedule(0.5, 0.0, 5)),
        ),
        (
            ["schedule=exponential", "schedule_options.decay_rate=0.1"],
            optax.adam(optax.exponential_decay(0.5, 5, 0.1)),
        ),
        (
            ["schedule=cosine", "schedule_options.alpha=0.2"],
            optax.adam(optax.cosine_decay_schedule(0.5, 5, 0.2)),
        ),
    ],
)
def test_any_optimizer_of_optax_with_its_options(given, expected):
    plain = ["learning_rate=0.5", "clip_norm=0.0", "schedule=constant", *given]
    config = load_suite(TOY, [f"outer_optimizer.{x}" for x in plain])
    got = outer_optimizer(config.outer_optimizer, 5)
    theta = {"w": np.ones((2, 2), np.float32), "b": np.ones(2, np.float32)}
    ours, theirs = got.init(theta), expected.init(theta)
    for _ in range(3):
        one, ours = got.update(theta, ours, theta)
        two, theirs = expected.update(theta, theirs, theta)
        for name in theta:
            np.testing.assert_array_equal(one[name], two[name])


def test_build_groups_tasks():
    trainer = build(load_suite(TOY), trust=True)
    assert trainer.task_names == ("toy",)
    assert isinstance(trainer.outer_optimizer, optax.GradientTransformation)


def test_metrics_of_a_full_disk(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fileformat.os, "fsync", refuse)
    with pytest.raises(CheckpointError, match="no space left"):
        toy_run(tmp_path / "run")
    assert contents(tmp_path / "run") == {}


def test_the_record_names_the_commit_of_the_checkout():
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        pytest.skip("not a git checkout")
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=root, text=True)
    assert (rundir.git_commit() or "").startswith(head.strip())
