"""Runs of the toy suite: how they are made, watched, killed and compared."""

import os
import subprocess
import sys
from pathlib import Path

import jax

from lopt.files import rundir, snapshots
from lopt.run import meta_train

TOY = Path(__file__).parent / "toy" / "toy.toml"
TIMINGS = ("seconds", "inner_steps_per_second")
STEPS = 7


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


def start(folder, *overrides, program=PROCESS):
    command = [sys.executable, "-c", program, str(TOY), str(folder), *overrides]
    # Sums over pairs are rounded differently on another number of devices.
    given = {"JAX_NUM_CPU_DEVICES": str(len(jax.devices()))}
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | given
    )
