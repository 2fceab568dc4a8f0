"""The full comparison on the kind of tasks that `digits` meta-trains on, fresh seeds.

    python scripts/bench_digits.py checkpoints/layerwise.safetensors
    python scripts/bench_digits.py runs/seed-1 runs/seed-2 runs/seed-3

compares learned optimizers, which may be several meta-seeds of one recipe, budget for
budget, with SGD with momentum, Adam, AdamW, Lion and Muon, each tuned anew for each
budget, and with `static`, the untrained prior tuned in the same way; where `--baselines`
asks for `schedule`, with the mean decisions of each file, too. It writes
benchmarks/digits.json and the report under runs/. Required of the worst of them: a median
speed-up of at least 2 over the best of SGD, Adam, AdamW and Lion, and at least 1.2 over
Muon. `--suite digits-heldout` measures what was not seen in meta-training.
"""

import argparse
import dataclasses
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BASELINES = ("sgd", "adam", "adamw", "lion", "muon", "static")
FIRST_ORDER = ("sgd", "adam", "adamw", "lion")
REQUIRED = {"best of sgd, adam, adamw, lion": 2.0, "muon": 1.2}


def main() -> None:
    options = parse()
    from lopt.cli import ending

    sys.exit(ending(lambda: run(options)))


def run(options: argparse.Namespace) -> None:
    """Compares, and writes what was found."""
    from lopt.cli.process import set_up

    set_up()
    from rich.console import Console

    from lopt.cli.progress import Bar
    from lopt.config import load_suite
    from lopt.evaluation import report
    from lopt.evaluation.comparison import evaluate
    from lopt.evaluation.schedule import schedule
    from lopt.suites import build_tasks

    learned = read_all(options.optimizers)
    (name, ours), *others = learned.items()
    rivals = [name for name in options.baselines.split(",") if name != "schedule"]
    if len(rivals) < len(options.baselines.split(",")):
        rivals += [schedule(found, name=own_schedule(n)) for n, found in learned.items()]
    rivals += [(other, found.lopt, found.theta) for other, found in others]
    with Bar() as bar:
        results = evaluate(
            ours.lopt,
            ours.theta,
            build_tasks(load_suite(options.suite)),
            name=name,
            suite=options.suite,
            baselines=rivals,
            trials=options.trials,
            seeds=options.seeds,
            tuning_seeds=options.tuning_seeds,
            seed=options.seed,
            progress=bar.update,
        )
    suite = Path(options.suite).stem
    report.write(results, ROOT / "runs" / f"bench-{suite}")
    by_file = {
        name: group_speed_ups(results, name, GROUPS | {"schedule": (own_schedule(name),)})
        for name in learned
    }
    write(results, by_file, options.out or ROOT / "benchmarks" / f"{suite}.json")
    console = Console()
    console.print(report.summary_table(results))
    for name, groups in by_file.items():
        print(f"{name}: " + "; ".join(found_text(*item) for item in groups.items()))
    for group, least in REQUIRED.items() if suite == "digits" else ():
        if any(group not in groups for groups in by_file.values()):
            continue  # not compared with
        worst = min(groups[group]["median"] for groups in by_file.values())
        verdict = "reached" if worst >= least else "NOT reached"
        print(f"over {group}: {worst:.2f}, {verdict}: {least}")


def read_all(places: Sequence[str | Path]) -> dict[str, Any]:
    """Exported files, runs or released ones, by the names that results have for them.

    Raises:
      ConfigError: two have one name.
    """
    from lopt.checkpoint import read
    from lopt.errors import ConfigError

    names = [Path(place).stem for place in places]
    if len(set(names)) < len(names):
        raise ConfigError(f"files must have different names, got {', '.join(names)}")
    return {name: read(place) for name, place in zip(names, places, strict=True)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("optimizers", type=Path, nargs="+", help="exported files or runs")
    parser.add_argument("--suite", default="digits")
    parser.add_argument("--baselines", default=",".join(BASELINES))
    parser.add_argument("--out", type=Path, help="of the JSON")
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=48)
    parser.add_argument("--tuning-seeds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


GROUPS = {
    "best of sgd, adam, adamw, lion": FIRST_ORDER,
    "best of these and muon": (*FIRST_ORDER, "muon"),
    **{name: (name,) for name in ("adamw", "muon", "static")},
}


def own_schedule(name: str) -> str:
    """What the control that is made of a file is called."""
    return f"schedule of {name}"


def group_speed_ups(results, name: str, groups=GROUPS) -> dict[str, dict]:
    """Of one file over the best of several baselines, by task, with 80 % intervals."""
    from lopt.evaluation import statistics

    compared = [c.name for c in results.tasks[0].contenders]
    found = {}
    for group, names in groups.items():
        if not set(names) <= set(compared):
            continue
        values, samples, tasks = [], [], {}
        for task in results.tasks:
            losses = {c.name: [b.losses for b in c.budgets] for c in task.contenders}
            budgets = np.array([b.num_steps for b in task.contenders[0].budgets])
            ours = np.array(losses[name])
            theirs = np.array([losses[name] for name in names])
            value = statistics.speed_ups(budgets, ours.mean(-1), theirs.mean(-1)).value
            draws = statistics.resample(ours.shape[-1], 2000, results.settings.seed)
            draw = statistics.bootstrap_speed_ups(budgets, ours, theirs, draws)
            # At T, the mean test loss over that of the best of the group.
            ratio = ours[-1].mean() / theirs[:, -1].mean(-1).min()
            values.append(float(value))
            samples.append(draw)
            tasks[task.name] = {
                "speed_up": float(value),
                "interval80": statistics.interval(draw, 0.8),
                "loss_ratio": float(ratio),
            }
        median = np.median(samples, axis=0)
        found[group] = {
            "median": float(np.median(values)),
            "interval80": statistics.interval(median, 0.8),
            "tasks": tasks,
        }
    return found


def found_text(group: str, found: dict) -> str:
    """A median and its interval, for people."""
    low, high = found["interval80"]
    return f"{found['median']:.2f} ({low:.2f} to {high:.2f}) over {group}"


def write(results, by_file: dict, path: Path) -> None:
    """The results without their curves, what made them, and where."""
    import jax

    from lopt import __version__
    from lopt.evaluation.results import to_dict

    content = {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {"lopt": __version__, "jax": jax.__version__},
        "files": by_file,
        **to_dict(without_curves(results)),
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def without_curves(results):
    """The results but for the course of the runs."""
    tasks = [
        dataclasses.replace(
            task,
            contenders=tuple(
                dataclasses.replace(c, curve=dataclasses.replace(c.curve, **NO_CURVE))
                for c in task.contenders
            ),
        )
        for task in results.tasks
    ]
    return dataclasses.replace(results, tasks=tuple(tasks))


NO_CURVE = {
    name: ()
    for name in (
        "steps",
        "train_median",
        "valid_median",
        "test_median",
        "test_low",
        "test_high",
    )
}


if __name__ == "__main__":
    main()
