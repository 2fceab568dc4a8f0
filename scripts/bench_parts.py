"""The parts of bench_meta_train.py that need processes or programs of their own."""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import jax
import optax
from bench_sides import Side, in_turns, serve
from bench_work import Case, floor, outer_steps, same_bases, take_turns

from lopt.base import Rematerialize
from lopt.cli.process import set_up
from lopt.compiling import compile_lowered
from lopt.config import load_suite
from lopt.run.build import build

SCRIPT = str(Path(__file__).with_name("bench_meta_train.py"))
Rows = list[dict]


def compile_rows(options: argparse.Namespace) -> Rows:
    """First calls, cold and warm: medians over processes."""
    cases: dict[str, Case | None] = {
        f"pes, {name}": Case(optimizer=name) for name in options.optimizers
    }
    cases["pes, layerwise, four tasks of one shape"] = Case(tasks=4)
    cases["tbptt, mlp"] = Case(estimator="tbptt", optimizer="mlp")
    if not options.quick:
        cases["suite digits"] = None
    rows = []
    for name, case in cases.items():
        chosen = json.dumps("digits" if case is None else asdict(case))
        found = [_first_calls(chosen) for _ in range(1 if case is None else 3)]
        cold, warm = (
            {key: statistics.median(r[key] for r in results) for key in results[0]}
            for results in zip(*found, strict=True)
        )
        rows.append(
            {
                "work": name,
                "cold seconds": cold["seconds"],
                "warm seconds": warm["seconds"],
                "cold CPU seconds": cold["cpu_seconds"],
                "programs": cold["programs"],
                "large programs": cold["large_programs"],
                "peak MiB": cold["peak_mib"],
            }
        )
    return rows


def suite_rows(options: argparse.Namespace) -> Rows:
    """A whole suite beside the floors of its tasks, each measured alone.

    With n_i the inner steps of task i in an outer step and s_i the seconds per step of
    its floor, a floor's share is Σ_i n_i s_i over the wall seconds of an outer step.
    """
    config = load_suite(options.suite, [])
    trainer, length = build(config), config.unroll.length
    outer_step = outer_steps(trainer)
    taken = outer_step() // len(trainer.task_names)  # of each task
    transforms = {"adam": optax.adam(1e-3)}
    if config.optimizer.name == "layerwise":
        transforms["same bases"] = same_bases()
    calls = {
        (group.names, name): floor(
            transform, group.task, particles=taken // length, length=length
        )
        for group in trainer.groups
        for name, transform in transforms.items()
    }
    rates = take_turns(
        {(): outer_step, **calls},
        turns=options.turns,
        seconds=options.seconds,
        clock=options.clock,
    )
    wall = taken * len(trainer.task_names) / rates[()]
    rows: Rows = []
    for group in trainer.groups:
        steps = len(group.names) * taken
        own = {name: rates[group.names, name] for name in transforms}
        rows.append(
            {"work": ", ".join(group.names)}
            | {f"{name}, steps/s": round(rate) for name, rate in own.items()}
            | {f"{name}, seconds": round(steps / rate, 4) for name, rate in own.items()}
        )
    shares = {
        f"{name} / wall": round(sum(row[f"{name}, seconds"] for row in rows) / wall, 3)
        for name in transforms
    }
    cold, warm = _first_calls(json.dumps(options.suite))
    whole = {
        "work": f"{options.suite}, an outer step",
        "seconds": round(wall, 3),
        **shares,
        "cold compile": cold["compile_seconds"],
        "warm compile": warm["compile_seconds"],
    }
    return [*rows, whole]


def _first_calls(chosen: str) -> list[dict[str, float]]:
    """Of a process that finds nothing compiled, and of one after it."""
    command = [sys.executable, SCRIPT, "--first-call", chosen]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        return [
            json.loads(subprocess.check_output(command, env=environment))
            for _ in range(2)
        ]


def report_first_call(chosen: Any) -> None:
    """Prints what a trainer, its data loaded, takes to its first outer step."""
    set_up()
    if isinstance(chosen, str):
        trainer = build(load_suite(chosen, []))
    else:
        trainer = Case(**chosen).trainer()
    compiled: list[float] = []

    def count(event: str, duration: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(count)
    start, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(1) as pool:  # as `lopt meta-train` does
        state = pool.submit(trainer.init, jax.random.key(0))
        step = trainer.compile(trainer.placed(trainer.shapes()))
        compile_seconds = time.perf_counter() - start
    jax.block_until_ready(step(state.result(), trainer.datas))
    result = {
        "seconds": round(time.perf_counter() - start, 2),
        "compile_seconds": round(compile_seconds, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "programs": len(compiled),
        "large_programs": sum(duration > 0.3 for duration in compiled),
        "peak_mib": _peak_mib(),
    }
    print(json.dumps(result))


def _peak_mib() -> int | None:
    """The most memory that this process has had; None where Linux does not say.

    `resource.getrusage` would count what the parent had before it started this one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(found[1]) // 1024 if found else None


def memory_rows(options: argparse.Namespace) -> Rows:
    """Against the longest run, and for `tbptt` against K."""
    runs = (200, 20_000)
    lengths = (10, 50) if options.quick else (10, 50, 250)
    cases = [
        {"estimator": name, "max_steps": steps}
        for name in ("es", "nres", "pes")
        for steps in runs
    ] + [
        {"estimator": "tbptt", "length": length, "options": {"rematerialize": how}}
        for how in get_args(Rematerialize)
        for length in lengths
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = list(pool.map(lambda c: program_bytes(Case(optimizer="mlp", **c)), cases))
    return [
        {
            "estimator": case["estimator"],
            "longest run": case.get("max_steps", Case.max_steps),
            "K": case.get("length", Case.length),
            "rematerialize": case.get("options", {}).get("rematerialize", ""),
            "program MiB": round(size / 2**20, 2),
        }
        for case, size in zip(cases, sizes, strict=True)
    ]


def program_bytes(case: Case) -> int:
    """Arguments, results and temporaries of one outer step, on each device."""
    trainer = case.trainer()
    state = trainer.init(jax.random.key(0))
    step = jax.jit(trainer.step, donate_argnums=0)
    sizes = compile_lowered(step.lower(state, trainer.datas)).memory_analysis()
    used = sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    return used + sizes.temp_size_in_bytes - sizes.alias_size_in_bytes


def core_rows(options: argparse.Namespace) -> Rows:
    """One core against two; needs Linux, and two cores."""
    chosen = ["--optimizers", ",".join(options.optimizers)]
    sides = {
        str(n): Side(
            [sys.executable, SCRIPT, "--serve-on", str(n), *chosen],
            {"JAX_NUM_CPU_DEVICES": str(n)},
        )
        for n in (1, 2)
    }
    results = in_turns(
        sides, turns=options.turns, seconds=options.seconds, clock=options.clock
    )
    for side in sides.values():
        side.end()
    rows = []
    for name, by_side in results.items():
        one, two = (by_side[n]["inner_steps_per_second"] for n in ("1", "2"))
        row = {"optimizer": name, "1 core": one, "2 cores": two}
        rows.append(row | {"ratio": round(two / one, 2)})
    return rows


def serve_on(num_cores: int, optimizers: tuple[str, ...]) -> None:
    """Serves outer steps on that many cores and devices."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_cores])
    set_up()
    serve({name: _setup(Case(optimizer=name)) for name in optimizers})


def _setup(case: Case):
    return lambda: outer_steps(case.trainer())
