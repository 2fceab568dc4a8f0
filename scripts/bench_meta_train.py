"""How fast meta-training is: rates, ratios to floors, compile times, memory, growth.

    python scripts/bench_meta_train.py               everything, 17 minutes on 2 cores
    python scripts/bench_meta_train.py --quick       the same in fewer points
    python scripts/bench_meta_train.py --parts rates,cores

prints tables and writes benchmarks/meta_train.json and .png. The work is that of
bench_work.py. The parts:

rates      inner steps per second of every estimator with the chosen optimizers, and of
           some on other shapes; beside them the floors, in turns in the same process:
           Adam by plain optax on the same particles, sharded over the same devices or all
           on one, and for `layerwise` all its bases by plain optax
compile    seconds from a trainer to its first outer step, in a process of its own, with
           an empty compilation cache (cold) and once more (warm); programs compiled;
           peak memory of the process
memory     bytes of one device that the compiled outer step needs, against the longest
           run, and against K with each way to rematerialize
particles  rates from 16 to 4096 inner runs side by side
width      rates at widths from 32 to 1024
cores      rates on one core with one device, and on two
suite      a whole suite (`--suite`): seconds of an outer step, what of them the floors
           of its tasks take, each alone, and seconds to compile it all, cold and warm

Figures are medians over turns; compare ratios, not rates of different runs. Expected on 2
quiet cores: `layerwise` at least 0.7 of its bases' floor; first call at most 4 s cold and
1.2 s warm; two cores at least 1.6 times one; `small`: floors at least half of the wall
seconds, compiled in at most 60 s and 10 s.

On a GPU: scripts/bench_gpu.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import bench_report
from bench_parts import (
    compile_rows,
    core_rows,
    memory_rows,
    report_first_call,
    serve_on,
    suite_rows,
)
from bench_sides import CLOCKS
from bench_work import Case, measure, surroundings

from lopt.cli.process import set_up
from lopt.estimators import ESTIMATORS
from lopt.optimizers import OPTIMIZERS

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "meta_train.json"
MAIN_OPTIMIZERS = ("layerwise", "mlp", "adafac_mlp")
WHOLE_RUNS = ("full_es", "full_gradient", "nes")
"""Estimators that run from start to end in every call: with runs of 100 to 200 steps."""
SHAPES = {"3x32": {"depth": 3}, "2x128": {"depth": 2, "width": 128}}

Rows = list[dict]


def rate_rows(options: argparse.Namespace) -> Rows:
    """Every estimator with the chosen optimizers; some with other shapes and the rest."""
    rows = []
    for optimizer in options.optimizers:
        cases = [
            Case(
                estimator=name,
                optimizer=optimizer,
                length=options.length,
                max_steps=200 if name in WHOLE_RUNS else Case.max_steps,
            )
            for name in options.estimators
        ]
        rows += measure(cases, options)
    if options.quick:
        return rows
    for optimizer in sorted(set(OPTIMIZERS) - set(options.optimizers)):
        rows += measure([Case(optimizer=optimizer, length=options.length)], options)
    for optimizer in options.optimizers:
        for shape in SHAPES.values():
            case = Case(optimizer=optimizer, length=options.length, **shape)
            rows += measure([case], options)
    return rows


def particle_rows(options: argparse.Namespace) -> Rows:
    """Growth with the number of inner runs."""
    return growth_rows(options, "particles", options.particles)


def width_rows(options: argparse.Namespace) -> Rows:
    """Growth with the width of the hidden layer."""
    return growth_rows(options, "width", options.widths)


def growth_rows(options: argparse.Namespace, what: str, sizes: Sequence[int]) -> Rows:
    """Rates at several sizes; in short truncations, because the large ones take long."""
    rows = []
    for optimizer in options.optimizers:
        for size in sizes:
            length = options.growth_length
            case = Case(optimizer=optimizer, length=length, **{what: size})
            rows += measure([case], options, all_floors=False)
    return rows


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "rates": rate_rows,
    "compile": compile_rows,
    "memory": memory_rows,
    "particles": particle_rows,
    "width": width_rows,
    "cores": core_rows,
    "suite": suite_rows,
}


def main() -> None:
    options = parse(sys.argv[1:])
    if options.serve_on:
        serve_on(options.serve_on, options.optimizers)
        return
    if options.first_call:
        report_first_call(options.first_call)
        return
    set_up()
    record = {"command": " ".join(["scripts/bench_meta_train.py", *sys.argv[1:]])}
    record |= surroundings() | {"clock": options.clock, "parts": {}}
    for part in options.parts:
        rows = PARTS[part](options)
        record["parts"][part] = rows
        if options.compare:
            bench_report.compare(rows, json.loads(options.compare.read_text()))
        bench_report.show(part, rows)
        write(options.out, record)
    bench_report.plot(record, options.out.with_suffix(".png"))


def write(path: Path, record: dict) -> None:
    """The record so far, replacing the earlier one at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(draft, path)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with what `--quick` means for those that were not given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", type=names(PARTS), default=tuple(PARTS), metavar="NAME,...")
    add("--quick", action="store_true", help="fewer points, shorter turns")
    add("--out", type=Path, default=OUT, metavar="FILE")
    add("--compare", type=Path, metavar="FILE", help="an earlier record, for ratios")
    add("--optimizers", type=names(OPTIMIZERS), default=MAIN_OPTIMIZERS)
    add("--estimators", type=names(ESTIMATORS), default=tuple(ESTIMATORS))
    add("--suite", default="small", help="of the part `suite`")
    add("--particles", type=numbers, metavar="N,...")
    add("--widths", type=numbers, metavar="N,...")
    add("--length", type=int, default=50, help="K, inner steps of a truncation")
    add("--growth-length", type=int, default=10, help="K of `particles` and `width`")
    add("--turns", type=int)
    add("--seconds", type=float, help="about, of a turn")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine")
    add("--serve-on", type=int, help=argparse.SUPPRESS)
    add("--first-call", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    defaults = {  # in full, and quickly
        "particles": ((16, 256, 4096), (16, 256)),
        "widths": ((32, 256, 1024), (32, 256)),
        "turns": (5, 3),
        "seconds": (0.3, 0.2),
    }
    for name, choices in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, choices[options.quick])
    return options


def names(known) -> Callable[[str], tuple[str, ...]]:
    """A type of option: names from a table, separated by commas."""

    def parse_names(text: str) -> tuple[str, ...]:
        chosen = tuple(text.split(","))
        if unknown := set(chosen) - set(known):
            rule = f"must be some of {', '.join(known)}, got {', '.join(sorted(unknown))}"
            raise argparse.ArgumentTypeError(rule)
        return chosen

    return parse_names


def numbers(text: str) -> tuple[int, ...]:
    """A type of option: numbers separated by commas."""
    return tuple(int(word) for word in text.split(","))


if __name__ == "__main__":
    main()
