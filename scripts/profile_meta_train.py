"""Where the time of meta-training goes, by part of the inner step.

    python scripts/profile_meta_train.py [OPTIMIZER ...] [--estimator pes]

traces outer steps of the work in bench_work.py with jax's profiler, for each optimizer in
a process of its own, and writes benchmarks/profile_meta_train.md and .json. About a
minute on 2 cores.

The profiler times every operation of the compiled program; the program's text says from
which lines of Python an operation comes. A fused operation belongs to several: its time
is shared out in proportion to the number of elements that each line computes. Times are
of all devices together, without those that they wait; the trace itself slows a program
of small operations, so read the shares, and the rate of the untraced program beside them.
"""

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import jax
from bench_work import Case, outer_steps, surroundings, take_turns

from lopt.cli.process import set_up

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "profile_meta_train.json"
CALLS = 5
OPTIMIZERS = ("layerwise", "mlp", "adafac_mlp")

RULES = (
    ("minibatch", r"lopt/data\.py:|\.batch$"),
    ("orthogonalization", r"lopt/bases\.py:.*orthogonal"),
    ("policy", r"optimizers/policy\.py:|layerwise\.py:_(decide|statistics)"),
    ("moments and features", r"optimizers/pieces\.py:.*whole$"),
    ("network over elements", r"optimizers/network\.py:apply_network"),
    ("moments and features", r"lopt/features\.py:|:channels$|layerwise\.py:_directions"),
    ("rest of the update", r"lopt/optimizers/|optax/_src/update\.py:"),
    ("loss and its gradient", r"lopt/unroll\.py:inner_step"),
    ("start of runs", r"lopt/unroll\.py:.*\.init$"),
    ("meta-loss", r"lopt/unroll\.py:.*\.(stretch|transform)"),
    ("random keys", r"lopt/unroll\.py:"),
    ("estimator", r"lopt/(estimators/|trainer\.py:)"),
)
"""The first pattern found among an operation's lines, as `file:function`, decides."""
WAITING = "waiting for another device"
LAUNCHING = "between operations"
OUTER = "outer update"
OTHER = "copies and the rest"

_ASSIGNMENT = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_TABLE_ROW = re.compile(r'^(\d+) (?:"(.*)"|\{(.*)\})$')
_SILENT = ("parameter(", "constant(", "bitcast(", "get-tuple-element(", "tuple(")


class Program:
    """A compiled program's text, read for where its operations come from."""

    def __init__(self, text: str):
        self._tables: dict[str, dict[int, str | dict[str, int]]] = {}
        self.operations: dict[str, str] = {}
        self._members: dict[str, list[str]] = collections.defaultdict(list)
        table = computation = ""
        for line in text.splitlines():
            if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
                table = line
                self._tables[table] = {}
            elif (row := _TABLE_ROW.match(line)) and table:
                fields = re.findall(r"(\w+)=(\d+)", row[3] or "")
                entry = row[2] if row[3] is None else {k: int(v) for k, v in fields}
                self._tables[table][int(row[1])] = entry
            elif found := _COMPUTATION.match(line):
                computation = found[1]
            elif found := _ASSIGNMENT.match(line):
                self.operations[found[1]] = found[2]
                self._members[computation].append(found[2])
        frames = self._tables.get("StackFrames", {})
        # Some versions count parents from 1, and let the outermost be its own.
        self._shift = any(f["parent_frame_id"] == i for i, f in frames.items())

    def shares(self, name: str) -> dict[str, float]:
        """Group -> share of an operation's time."""
        text = self.operations.get(name, "")
        if re.search(r"\ball-(reduce|gather)|collective-", text):
            return {WAITING: 1.0}
        if re.search(r"\bwhile\(|\bconditional\(", text):
            return {LAUNCHING: 1.0}
        called = re.search(r"(?:calls|to_apply)=%?([\w.\-]+)", text)
        members = self._members.get(called[1], []) if called else []
        weights: collections.Counter[str] = collections.Counter()
        for member in members:
            if not any(word in member for word in _SILENT) and "stack_frame" in member:
                weights[self._group(member)] += _num_elements(member)
        if not weights:
            weights[self._group(text)] = 1
        total = sum(weights.values())
        return {group: weight / total for group, weight in weights.items()}

    def _group(self, text: str) -> str:
        stack = self._stack(text)
        for group, pattern in RULES:
            if any(re.search(pattern, line) for line in stack):
                return group
        return OTHER

    def _stack(self, text: str) -> list[str]:
        """The lines of Python that an operation comes from, as `file:function`."""
        found = re.search(r"stack_frame_id=(\d+)", text)
        frame, lines = int(found[1]) if found else 0, []
        while frame:
            entry = self._tables["StackFrames"][frame]
            place = self._tables["FileLocations"][entry["file_location_id"]]
            file = self._tables["FileNames"][place["file_name_id"]]
            function = self._tables["FunctionNames"][place["function_name_id"]]
            lines.append(f"{file}:{function}")
            frame = entry["parent_frame_id"] - self._shift
        return lines


def _num_elements(operation: str) -> int:
    """Elements of the first array that an operation's text declares."""
    found = re.search(r"\w+\[([\d,]*)\]", operation)
    product = 1
    for size in filter(None, found[1].split(",") if found else ()):
        product *= int(size)
    return product


def self_times(profile) -> dict[tuple[str, str], float]:
    """Seconds of each (program, operation), without those of operations inside it."""
    seconds: collections.Counter = collections.Counter()
    for line in (line for plane in profile.planes for line in plane.lines):
        events = []
        for event in line.events:
            stats = dict(event.stats)
            if "hlo_op" in stats:
                key = stats.get("hlo_module", ""), stats["hlo_op"]
                events.append((event.start_ns, -event.duration_ns, key))
        open_events: list[tuple[float, tuple]] = []
        for start, negative, key in sorted(events):
            while open_events and open_events[-1][0] <= start:
                open_events.pop()
            seconds[key] -= negative / 1e9
            if open_events:
                seconds[open_events[-1][1]] += negative / 1e9
            open_events.append((start - negative, key))
    return seconds


def run_trace(case: Case) -> dict:
    """`trace` of a case in a process of its own, which dumps the text of its program."""
    with tempfile.TemporaryDirectory() as folder:
        dump = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
        # A program from the cache would name the lines of whoever compiled it first.
        environment = os.environ | {
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {dump}",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
        }
        command = [sys.executable, __file__, "--case", json.dumps(asdict(case)), folder]
        return json.loads(subprocess.check_output(command, text=True, env=environment))


def trace(case: Case, folder: Path) -> dict:
    """Seconds of each group in some outer steps, and the rate without the profiler."""
    set_up()
    call = outer_steps(case.trainer())
    rate = take_turns({"it": call}, turns=5, seconds=0.5)["it"]
    with jax.profiler.trace(str(folder)):
        steps = sum(call() for _ in range(CALLS))
    (text,) = folder.glob("*jit__estimate*pu_after_optimizations.txt")
    program = Program(text.read_text())
    (path,) = folder.rglob("*.xplane.pb")
    groups: collections.Counter[str] = collections.Counter()
    times = self_times(jax.profiler.ProfileData.from_file(str(path)))
    for (module, operation), seconds in times.items():
        if module.startswith("jit__estimate"):
            for group, share in program.shares(operation).items():
                groups[group] += seconds * share
        else:
            groups[OUTER] += seconds
    return {
        "inner_steps_per_second": round(rate),
        "microseconds_per_inner_step": {
            name: round(1e6 * value / steps, 3) for name, value in groups.most_common()
        },
    }


def as_markdown(record: dict) -> str:
    """The record as a table, a column for each optimizer."""
    results = record["optimizers"]
    groups = [name for name, _ in RULES] + [OUTER, WAITING, LAUNCHING, OTHER]
    lines = [
        "# Where the time of meta-training goes",
        "",
        f"Made by `{record['command']}` on {record['machine']}, jax {record['jax']}. "
        "Share of the time that the devices spend in operations, and microseconds of one "
        "device for an inner step of one particle; the profiler's own cost is in them. "
        "How operations are told apart: the script's first lines.",
        "",
        "| part | " + " | ".join(f"`{name}`" for name in results) + " |",
        "|---|" + "---:|" * len(results),
    ]
    for group in groups:
        cells = []
        for result in results.values():
            times = result["microseconds_per_inner_step"]
            value, total = times.get(group, 0.0), sum(times.values())
            cells.append(f"{value / total:.1%} ({value:.1f} µs)")
        lines.append(f"| {group} | " + " | ".join(cells) + " |")
    rates = [f"{r['inner_steps_per_second']:,}" for r in results.values()]
    lines.append("| inner steps/s, not traced | " + " | ".join(rates) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("optimizers", nargs="*", default=OPTIMIZERS, metavar="OPTIMIZER")
    parser.add_argument("--estimator", default="pes")
    parser.add_argument("--particles", type=int, default=16)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        case, folder = options.case
        print(json.dumps(trace(Case(**json.loads(case)), Path(folder))))
        return
    chosen = {"estimator": options.estimator, "particles": options.particles}
    results = {
        name: run_trace(Case(optimizer=name, **chosen)) for name in options.optimizers
    }
    set_up()
    record = {
        "command": " ".join(["scripts/profile_meta_train.py", *sys.argv[1:]]),
        **surroundings(),
        "optimizers": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(as_markdown(record))
    print(as_markdown(record))


if __name__ == "__main__":
    main()
