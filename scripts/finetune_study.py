"""The study of L3RS (arXiv 2408.09310) in small: is fine-tuning worth its own optimizer?

    python scripts/finetune_study.py

For each kind of task of the suite `finetune` (digits and text, the whole network and its
head alone) `layerwise`, with an embedding of each tensor, is meta-trained on that kind,
with NES and with PES. Both are compared, budget for budget, with tuned baselines under a
constant and under a cosine schedule and with the control `static`, on the tasks of
`finetune-heldout` that have the same network: its own task, other pretrained weights,
other data, five times the steps. Required of the better one are median speed-ups of 2,
1.3, 1.3 and 1 over the best baseline. With `--also FILES`, such as `layerwise-finetune`,
one optimizer for all four, these are compared, too. Writes benchmarks/finetune.json; what
is done is kept in runs/finetune, and the same command goes on from there. About an hour
on 2 cores, most of it on text.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_digits import group_speed_ups, without_curves

ROOT = Path(__file__).resolve().parent.parent
SCHEDULES = ("constant", "cosine")
REQUIRED = {"own": 2.0, "weights": 1.3, "data": 1.3, "longer": 1.0}
"""Speed-up over the best baseline, by what is new about a task of the held-out suite."""


def main() -> None:
    options = parse()
    from lopt.cli import ending

    sys.exit(ending(lambda: run(options)))


def run(options: argparse.Namespace) -> None:
    """Does what is not done yet, task by task, and writes all that was found."""
    from lopt.cli.process import set_up

    set_up()
    from bench_work import surroundings

    from lopt.config import load_suite
    from lopt.errors import unknown_name

    suites = load_suite(options.suite), load_suite(options.heldout)
    known = sorted({kind_of(task) for task in suites[1].tasks})
    kinds = options.kinds or known
    for kind in kinds:
        if kind not in known:
            raise unknown_name("kind of task", kind, known)
    studies = {kind: study(*suites, kind, options) for kind in kinds}
    record = {
        "command": " ".join(["python", "scripts/finetune_study.py", *sys.argv[1:]]),
        **surroundings(),
        "summary": summary(studies),
        "kinds": studies,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    for new, found in record["summary"].items():
        best = max(found.values())
        verdict = "reached" if best >= REQUIRED[new] else "NOT reached"
        told = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
        print(f"{new}: {told}; {verdict}: {REQUIRED[new]}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", help="of tasks; default: all")
    parser.add_argument("--suite", default="finetune")
    parser.add_argument("--heldout", default="finetune-heldout")
    parser.add_argument(
        "--nes-steps", type=int, default=40, help="outer steps; 0: no NES"
    )
    parser.add_argument(
        "--pes-steps", type=int, default=800, help="outer steps; 0: no PES"
    )
    parser.add_argument(
        "--also", nargs="+", default=[], help="files that are compared, too"
    )
    parser.add_argument("--embedding-size", type=int, default=4)
    parser.add_argument("--baselines", default="sgd,adamw")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--tuning-seeds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of meta-training")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/finetune")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/finetune.json")
    return parser.parse_args()


def kind_of(task) -> str:
    """Of a held-out task: its name but for what is new about it."""
    return task.name.rpartition("-")[0]


def study(suite, heldout, kind: str, options: argparse.Namespace) -> dict:
    """One kind of task: meta-training, and the comparison, if not done yet."""
    where = ("kinds", "folder", "out")
    asked = {k: v for k, v in vars(options).items() if k not in where}
    done = options.folder / f"{kind}.json"
    if done.is_file():
        found = json.loads(done.read_text())
        if found["options"] == asked:
            return found
    runs = meta_train_all(suite, kind, options)
    related = tuple(task for task in heldout.tasks if kind_of(task) == kind)
    results = compare(replace(heldout, tasks=related), runs, options)
    groups = groups_of(options)
    found = {
        "options": asked,
        "meta_training": {
            estimator: {
                "outer_steps": len(run.metrics),
                "inner_steps": sum(line["inner_steps"] for line in run.metrics),
                "seconds": round(sum(line["seconds"] for line in run.metrics), 1),
            }
            for estimator, run in runs.items()
        },
        "speed_ups": {
            name: by_task(group_speed_ups(results, name, groups))
            for name in (*runs, *map(stem, options.also))
        },
        "results": results_of(results),
    }
    done.write_text(json.dumps(found, indent=1) + "\n")
    return found


def meta_train_all(suite, kind: str, options: argparse.Namespace) -> dict:
    """A run for each estimator, on tasks of one kind; those that exist are continued."""
    import jax

    from lopt.cli.progress import TrainingBar
    from lopt.config import ComponentConfig
    from lopt.run import meta_train
    from lopt.suites import build_tasks

    tasks = tuple(task for task in suite.tasks if task.name.startswith(kind))
    config = replace(suite, seed=options.seed, tasks=tasks)
    first, *_ = build_tasks(config)
    embedding = {
        "embedding_size": options.embedding_size,
        "num_tensors": len(jax.tree.leaves(first.task.specs)),
    }
    optimizer = suite.optimizer
    optimizer = replace(optimizer, options=optimizer.options | embedding)
    given = suite.estimator.options if suite.estimator.name == "pes" else {}
    estimators = {
        "nes": (options.nes_steps, {}),
        "pes": (options.pes_steps, given),
    }
    runs = {}
    for estimator, (steps, estimator_options) in estimators.items():
        if not steps:
            continue
        component = ComponentConfig(name=estimator, options=estimator_options)
        told = {"optimizer": optimizer, "estimator": component, "outer_steps": steps}
        folder = options.folder / f"{kind}-{estimator}-{options.seed}"
        print(f"{kind}: meta-training with {estimator}", file=sys.stderr)
        with TrainingBar() as bar:
            runs[estimator] = meta_train(
                replace(config, **told), out=folder, resume=True, progress=bar
            )
    return runs


def compare(config, runs: dict, options: argparse.Namespace):
    """The results of all runs and baselines on the tasks of a configuration."""
    from lopt.checkpoint import read
    from lopt.cli.progress import Bar
    from lopt.evaluation.comparison import evaluate
    from lopt.suites import build_tasks

    places = {name: run.folder for name, run in runs.items()}
    places |= {stem(file): file for file in options.also}
    learned = [
        (name, found.lopt, found.theta)
        for name, found in ((name, read(place)) for name, place in places.items())
    ]
    (name, lopt, theta), *others = learned
    with Bar() as bar:
        return evaluate(
            lopt,
            theta,
            build_tasks(config),
            name=name,
            suite=config.suite,
            baselines=[*scheduled(options.baselines), "static", *others],
            trials=options.trials,
            seeds=options.seeds,
            tuning_seeds=options.tuning_seeds,
            seed=1,
            progress=bar.update,
        )


def stem(file: str) -> str:
    """What a file is called in the results."""
    return Path(file).stem


def scheduled(names: str) -> list:
    """The baselines, each under every schedule: tuned for what is left to choose."""
    from lopt.evaluation.baselines import baseline

    return [
        replace(
            found,
            name=f"{found.name}-{schedule}",
            space=replace(found.space, schedules=(schedule == "constant",)),
        )
        for found in map(baseline, names.split(","))
        for schedule in SCHEDULES
    ]


def groups_of(options: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """What is compared with, by name: the best of several baselines."""
    names = options.baselines.split(",")
    groups = {s: tuple(f"{name}-{s}" for name in names) for s in SCHEDULES}
    best = tuple(name for group in groups.values() for name in group)
    return {"best": best, **groups, "static": ("static",)}


def by_task(groups: dict) -> dict:
    """Of each task what was found of each group."""
    tasks = next(iter(groups.values()))["tasks"]
    return {
        t: {group: found["tasks"][t] for group, found in groups.items()} for t in tasks
    }


def results_of(results) -> dict:
    """All but the curves."""
    from lopt.evaluation.results import to_dict

    return to_dict(without_curves(results))


def summary(studies: dict) -> dict[str, dict[str, float]]:
    """Medians over kinds of tasks of the speed-up over the best, by what is new."""
    values: dict[str, dict[str, list[float]]] = {}
    for kind, found in studies.items():
        for estimator, tasks in found["speed_ups"].items():
            for task, groups in tasks.items():
                by_estimator = values.setdefault(task.removeprefix(f"{kind}-"), {})
                speed_up = groups["best"]["speed_up"]
                by_estimator.setdefault(estimator, []).append(speed_up)
    return {
        new: {estimator: float(np.median(x)) for estimator, x in found.items()}
        for new, found in values.items()
    }


if __name__ == "__main__":
    main()
