"""What longer meta-training buys: quality on tasks not trained on, against its cost.

    lopt meta-train digits --seed 1 --out runs/one --set checkpoint_every=25 \\
        --set keep_checkpoints=100
    python scripts/meta_curve.py runs/one runs/two runs/three
    python scripts/meta_curve.py runs/one runs/two runs/three --selection

Every checkpoint that the runs have kept trains the tasks of the held-out suite, the same
seeds for all, and so does the optimizer before meta-training. Drawn is the ratio of the
test losses at T, the median over tasks with its 80 % interval, against the inner steps
that the checkpoint took to make. With `--selection` nothing is trained: drawn are the
scores that the runs' own selection has found on its suite, tasks that none is trained
on. It writes benchmarks/meta_curve.json and .png.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from loss_ratios import contest, ratios

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    options = parse()
    from lopt.cli import ending

    sys.exit(ending(lambda: run(options)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of one recipe")
    parser.add_argument("--suite", default="digits-heldout")
    parser.add_argument("--selection", action="store_true", help="what it has found")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/meta_curve")
    return parser.parse_args()


def run(options: argparse.Namespace) -> None:
    """Finds out what every checkpoint is worth, and writes it."""
    from lopt.cli.process import set_up

    set_up()
    from bench_work import surroundings

    content = {
        "command": " ".join(["python", "scripts/meta_curve.py", *sys.argv[1:]]),
        **surroundings(),
        **(selected(options.runs) if options.selection else compared(options)),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    picture(content).savefig(options.out.with_suffix(".png"), dpi=110)
    for row in content["checkpoints"]:
        print(f"{row['run']}, step {row['step']}: {row['median']:.3f}")


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """All kept checkpoints side by side."""
    import jax

    from lopt.checkpoint import read

    costs = {f"{run.name} {c['step']}": c for run in options.runs for c in kept(run)}
    learned = {name: read(cost["folder"]) for name, cost in costs.items()}
    first = next(iter(learned.values()))
    thetas = {"untrained": first.lopt.init(jax.random.key(0))}
    thetas |= {name: checkpoint.theta for name, checkpoint in learned.items()}
    contestants = {name: (first.lopt, theta) for name, theta in thetas.items()}
    found = ratios(
        contest(contestants, options.suite, seeds=options.seeds, seed=options.seed)
    )
    return {
        "suite": options.suite,
        "seeds": options.seeds,
        "quality": f"test loss over the untrained one's\n{options.suite}",
        "checkpoints": [
            {key: cost[key] for key in ("run", "step", "inner_steps", "seconds")}
            | found[name]
            for name, cost in costs.items()
        ],
    }


def selected(runs: list[Path]) -> dict[str, Any]:
    """The scores of the runs' selections.

    Raises:
      ConfigError: a run has none.
    """
    from lopt.errors import ConfigError
    from lopt.files import rundir

    suites, rows = set(), []
    for run in runs:
        suites.add(rundir.read_config(run).selection.suite)
        found = rundir.read_selection(run)
        if not found:
            raise ConfigError(f"`{run}` has no selection")
        rows += [
            cost(run, one["step"])
            | {"median": float(np.exp(min(one["scores"].values())))}
            for one in found
        ]
    quality = f"valid loss, geometric mean\n{', '.join(sorted(suites))}"
    return {"quality": quality, "checkpoints": rows}


def kept(run: Path) -> list[dict[str, Any]]:
    """The checkpoints that a run has, and what each of them took to make."""
    from lopt.files import rundir, snapshots

    rundir.read_config(run)  # complains where it is no run
    folder = run / rundir.CHECKPOINTS
    return [
        cost(run, step) | {"folder": folder / str(step)}
        for step in snapshots.steps(folder)
    ]


def cost(run: Path, step: int) -> dict[str, Any]:
    """What the steps up to this one took."""
    from lopt.files import rundir

    metrics = rundir.read_metrics(run)[:step]
    return {
        "run": run.name,
        "step": step,
        "inner_steps": sum(m["inner_steps"] for m in metrics),
        "seconds": round(sum(m["seconds"] for m in metrics), 1),
    }


def picture(content: dict):
    """A line for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    by_run: dict[str, list[dict]] = {}
    for row in content["checkpoints"]:
        by_run.setdefault(row["run"], []).append(row)
    for name, rows in by_run.items():
        x = np.array([row["inner_steps"] for row in rows]) / 1e6
        (line,) = axes.plot(x, [row["median"] for row in rows], marker="o", label=name)
        if "interval80" in rows[0]:
            low, high = np.array([row["interval80"] for row in rows]).T
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, lw=0)
    if "suite" in content:
        axes.axhline(1, color="black", linewidth=0.8)
    axes.set_xlabel("inner steps of meta-training, millions")
    axes.set_ylabel(content["quality"])
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
