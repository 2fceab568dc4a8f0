"""What a learned `layerwise` has come to rely on: its parts, left out one at a time.

    python scripts/leave_one_out.py checkpoints/layerwise.safetensors

A part is a group of inputs of the policy (set to zero, the middle of their range), a base
or a share of the blend (never chosen), or one of the things that are learned (as in the
prior). Each is left out of theta as it is: nothing is meta-trained again, so that what
the others could have made up for counts against it. On every task of the suite, paired
over seeds, the test loss at T is divided by that of the whole optimizer: above 1, the
part is missed. Medians over tasks and their 80 % intervals go into
benchmarks/leave_one_out.json. About 3 minutes on 2 cores.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
NEVER = -1e6
"""A logit that leaves nothing."""


def main() -> None:
    options = parse()
    from lopt.cli.process import set_up

    set_up()
    from lopt.checkpoint import read
    from lopt.cli.progress import Bar
    from lopt.config import load_suite
    from lopt.evaluation.comparison import evaluate
    from lopt.suites import build_tasks

    learned = read(options.optimizer)
    parts = without(learned.theta, learned.header.options)
    rivals = [(name, learned.lopt, theta) for name, theta in parts.items()]
    with Bar() as bar:
        results = evaluate(
            learned.lopt,
            learned.theta,
            build_tasks(load_suite(options.suite)),
            baselines=rivals,
            seeds=options.seeds,
            seed=options.seed,
            budgets=[1.0],
            progress=bar.update,
        )
    found = ratios(results)
    write(options, found)
    for name, row in found.items():
        low, high = row["interval80"]
        print(f"{row['median']:6.3f} ({low:.3f} to {high:.3f})  without {name}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("optimizer", type=Path, help="an exported file or a run")
    parser.add_argument("--suite", default="digits")
    parser.add_argument("--seeds", type=int, default=48)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/leave_one_out.json"
    )
    return parser.parse_args()


def without(theta, options: dict) -> dict:
    """Theta without each of its parts, by the part's name."""
    from lopt.optimizers import inputs

    network = {name: np.asarray(leaf) for name, leaf in theta["network"].items()}
    last = len(network) // 2 - 1
    bases, momenta = options["bases"], options["momenta"]
    outputs = {f"the base {name}": [k] for k, name in enumerate(bases)}
    shares = ["the gradient's share", *(f"the momentum of {beta}" for beta in momenta)]
    outputs |= {name: [len(bases) + i] for i, name in enumerate(shares)}
    blend_end = len(bases) + len(shares)
    learned = {
        "a learned mixture": range(len(bases)),
        "a learned blend": range(len(bases), blend_end),
        "a learned step size": [blend_end],
        "a learned decay": [blend_end + 1],
    }
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(inputs.names(momenta)):
        groups.setdefault(name.partition(":")[0], []).append(i)

    def changed(leaf: str, index, value: float):
        edited = {name: x.copy() for name, x in network.items()}
        for name in (leaf,) if isinstance(leaf, str) else leaf:
            edited[name][index] = value
        return {**theta, "network": edited}

    every = slice(None)
    return {
        **{
            f"the inputs: {name}": changed("w0", (list(rows), every), 0.0)
            for name, rows in groups.items()
        },
        **{
            name: changed(f"b{last}", columns, NEVER) for name, columns in outputs.items()
        },
        **{
            name: changed((f"w{last}", f"b{last}"), (..., list(columns)), 0.0)
            for name, columns in learned.items()
        },
        "anything learned": changed((f"w{last}", f"b{last}"), (...,), 0.0),
    }


def ratios(results) -> dict[str, dict]:
    """Of each part the losses without it over those with it."""
    from lopt.evaluation import statistics

    draws = statistics.resample(results.settings.seeds, 2000, results.settings.seed)
    found = {}
    for i, contender in enumerate(results.tasks[0].contenders[1:], 1):
        tasks, samples = {}, []
        for task in results.tasks:
            ours, theirs = (
                np.asarray(task.contenders[j].budgets[-1].losses) for j in (0, i)
            )
            tasks[task.name] = float(theirs.mean() / ours.mean())
            samples.append(theirs[draws].mean(-1) / ours[draws].mean(-1))
        found[contender.name] = {
            "median": float(np.median(list(tasks.values()))),
            "interval80": statistics.interval(np.median(samples, axis=0), 0.8),
            "tasks": tasks,
        }
    return dict(sorted(found.items(), key=lambda item: -item[1]["median"]))


def write(options: argparse.Namespace, found: dict) -> None:
    """The JSON, with what made it."""
    import jax

    from lopt import __version__

    content = {
        "command": " ".join(["python", "scripts/leave_one_out.py", *sys.argv[1:]]),
        "versions": {"lopt": __version__, "jax": jax.__version__},
        "suite": options.suite,
        "seeds": options.seeds,
        "without": found,
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
