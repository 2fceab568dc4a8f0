"""Every architecture, meta-trained small and tested large, with muP and without.

    python scripts/meta_generalise.py --minutes 10
    python scripts/meta_generalise.py --optimizer mlp --minutes 1 --axis width=128

Each architecture is meta-trained twice on MLPs of widths up to 64, depths up to 3 and
runs up to 500 steps: in muP form with multipliers, and plain without, for as many outer
steps as fit into the minutes, the same in both forms. Both are then tested where one
property at a time is larger, in their own form, against AdamW and Muon tuned for that
cell, as by scripts/generalise.py. All but `layerwise`, which has its own, have a cosine,
a law of depth and a learned weight decay around them. Speed-ups and losses of a form go
into meta_generalise-FORM.json of benchmarks/, the speed-ups into the heat maps of
meta_generalise-FORM.png, and the runs into runs/meta_generalise. All goes on where it
was stopped.

With all 12 architectures, 10 minutes each and the whole grid it takes many hours: on two
cores the cell of width 512 alone is 13 minutes, that of 1024 more than an hour.
Of the tries so far benchmarks/LOG.md tells.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import generalise
from generalise import ROOT

FORMS = ("mup", "plain")
TRAINED = [(w, d) for w in (16, 32, 64) for d in (1, 2, 3) if (w, d) != (32, 2)]
"""Widths and depths of the training tasks; the center is not among them."""
CENTER = {"width": 32, "depth": 2, "num_steps": 200}
BASE_WIDTH = 32
AXES = {
    "width": [128, 256, 512, 1024],
    "depth": [6, 8, 12],
    "num_steps": [1000, 2000, 5000],
}
OVER = {"adamw": ("adamw",), "muon": ("muon",)}
MOMENTUM = {"start": "momentum"}
ADAM = MOMENTUM | {"step_mult": 0.01, "weight_decay": 0.03}
RELATIVE = MOMENTUM | {"step_mult": 0.04, "weight_decay": 0.015}
OPTIONS: dict[str, dict[str, Any]] = {
    "adafac_mlp": ADAM,
    "celo": RELATIVE,
    "celo2": MOMENTUM | {"learning_rate": 0.005},
    "layerwise": {"hidden_sizes": []},
    "learnable_adam": {"learning_rate": 0.04, "per_role": True},
    "learnable_sgd": {"learning_rate": 0.4, "per_role": True, "weight_decay": 0.005},
    "learnable_sgdm": {"learning_rate": 0.1, "per_role": True, "weight_decay": 0.005},
    "mlp": MOMENTUM | {"step_mult": 0.01},
    "mup_adafac": ADAM,
    "nn_adam": {"learning_rate": 0.015, "output_scale": 1e-4},
    "rnn_mlp": ADAM,
    "velo": RELATIVE | {"hidden_size": 32, "num_networks": 16},
}
"""Networks start as momentum, with the step and decay that suit that on 3x32, 500 steps
(valid split; benchmarks/LOG.md)."""
SCHEDULED = str(ROOT / "tasks/scheduled.py:scheduled")
"""A cosine, decay and law of depth around all but `layerwise`, which has its own."""
SIGMA: dict[str, Any] = {
    "layerwise": 0.05,
    "velo": {"default": 0.02, "architecture/controls": 0.0},
}
"""Of the perturbations; 0.02 for the others. A hundredfold of what `velo`'s controls say
is how it mixes its networks: minutes are too few to learn that."""
OUTER_RATE = {"learnable_adam": 0.01, "learnable_sgd": 0.01, "learnable_sgdm": 0.01}
"""Of theta's updates; 0.003 for the others."""


def main() -> None:
    options = parse()
    from lopt.cli import ending

    sys.exit(ending(lambda: run(options)))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optimizer", action="append", metavar="NAME", help="only this")
    parser.add_argument("--form", action="append", choices=FORMS, help="only this")
    parser.add_argument("--minutes", type=float, default=10, help="of each meta-training")
    parser.add_argument("--axis", action="append", metavar="NAME[=V,V]")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/meta_generalise")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/meta_generalise")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--tuning-seeds", type=int, default=2)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.25, 0.5, 1])
    parser.add_argument("--seed", type=int, default=2)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """One form after the other."""
    from lopt.cli.process import set_up

    set_up()
    forms = options.form or FORMS
    contents = [run_form(form, options) for form in forms]
    print("\n".join(map(summary, contents, forms)))


def run_form(form: str, options: argparse.Namespace) -> dict[str, Any]:
    """All runs, then every cell that is not there yet, and the files after each."""
    from lopt.optimizers import OPTIMIZERS

    out = out_of(form, options)
    names = options.optimizer or list(OPTIMIZERS)
    learned = {name: trained(name, form, options) for name in names}
    own = argparse.Namespace(**vars(options) | {"out": out})
    content = generalise.start(own, learned)
    content["command"] = " ".join(["python", "scripts/meta_generalise.py", *sys.argv[1:]])
    content["minutes"] = options.minutes
    content["outer_steps"] = {n: c.header.card["outer_steps"] for n, c in learned.items()}
    for name, cell in grid(options.axis, form).items():
        if content["cells"].get(name, {}).get("task") == cell:
            continue
        title = f"{name} {form}"
        task, settings = generalise.build(title, cell), content["settings"]
        measured = generalise.measure(learned, task, settings, told(title), over=OVER)
        content["cells"][name] = {"task": cell, **measured}
        generalise.write_picture(content, out, OVER)
        generalise.write_json(content, out)
        print(f"{title}: {generalise.row(content['cells'][name], OVER)}", flush=True)
    return content


def out_of(form: str, options: argparse.Namespace) -> Path:
    """The files of a form, without suffix."""
    return options.out.with_name(f"{options.out.name}-{form}")


def told(name: str):
    """Says how far a cell is."""
    from lopt.cli.progress import Bar

    bar = Bar()
    return lambda text, fraction: bar.update(f"{name}: {text}", fraction)


def grid(axes: list[str] | None, form: str) -> dict[str, dict[str, Any]]:
    """The properties of each cell's task by its name."""
    chosen = axes or [f"{a}={','.join(map(str, v))}" for a, v in AXES.items()]
    center = [f"{name}={value}" for name, value in CENTER.items()]
    return {
        name: cell | shape(form, cell["width"])
        for name, cell in generalise.grid(center, chosen, corners=False).items()
    }


def shape(form: str, width: int) -> dict[str, Any]:
    """What makes a task one of muP, or one that knows nothing of width."""
    return {"form": form, "base_width": BASE_WIDTH if form == "mup" else width}


def config_of(name: str, form: str, seed: int = 0):
    """The run of one architecture, of a hundred outer steps."""
    from lopt.config import ComponentConfig, TaskConfig, load_suite

    config = load_suite("digits")
    estimator = config.estimator
    sigma = {"sigma": SIGMA.get(name, 0.02)}
    rate = OUTER_RATE.get(name, 0.003)
    options = OPTIONS.get(name, {})
    optimizer = (
        ComponentConfig(name=name, options=options)
        if name == "layerwise"
        else ComponentConfig(name=SCHEDULED, options={"architecture": name} | options)
    )
    tasks = tuple(
        TaskConfig(
            family="mlp",
            name=f"{depth}x{width}",
            min_steps=50,
            max_steps=500,
            options={"width": width, "depth": depth, "data_seed": i + 1}
            | shape(form, width),
        )
        for i, (width, depth) in enumerate(TRAINED)
    )
    return replace(
        config,
        suite="meta_generalise",
        seed=seed,
        outer_steps=100,
        optimizer=optimizer,
        estimator=replace(estimator, options=estimator.options | sigma),
        outer_optimizer=replace(config.outer_optimizer, learning_rate=rate),
        tasks=tasks,
    )


def trained(name: str, form: str, options: argparse.Namespace):
    """A meta-trained architecture, trained now or continued where it has not ended."""
    from lopt.checkpoint import read
    from lopt.cli.progress import TrainingBar
    from lopt.costs import training_cost
    from lopt.files import rundir
    from lopt.run import meta_train

    folder = options.runs / f"{name}-{form}"
    if rundir.is_run(folder):
        config = rundir.read_config(folder)
    else:
        config = config_of(name, form)
        steps = steps_before(options).get(name)
        if steps is None:
            cost = training_cost(config, trust=True)
            steps = fitting(options.minutes * 60, cost.seconds / config.outer_steps)
        config = replace(config, outer_steps=steps)
    metrics = rundir.read_metrics(folder) if rundir.is_run(folder) else []
    if not metrics or metrics[-1]["step"] < config.outer_steps:
        with TrainingBar() as bar:
            meta_train(config, out=folder, resume=True, trust=True, progress=bar)
    return read(folder, trust=True)


def steps_before(options: argparse.Namespace) -> dict[str, int]:
    """The outer steps of runs of as many minutes, in either form, if written down."""
    steps = {}
    for form in FORMS:
        path = out_of(form, options).with_suffix(".json")
        content = json.loads(path.read_text()) if path.is_file() else {"minutes": None}
        if content["minutes"] == options.minutes:
            steps |= content["outer_steps"]
    return steps


def fitting(seconds: float, each: float) -> int:
    """How many outer steps of `each` seconds fit, one at least."""
    return max(1, int(seconds / each))


def summary(content: dict[str, Any], form: str) -> str:
    """A line for each baseline: in how many cells an architecture is level or better."""
    cells = content["cells"].values()
    lines = []
    for over in OVER:
        found = [x[over] for cell in cells for x in cell["speed_up"].values()]
        level = sum(x["value"] >= 1 for x in found) / len(found)
        not_worse = sum(x["interval80"][1] >= 1 for x in found) / len(found)
        lines.append(
            f"{form}: level with {over} or better in {level:.0%} of {len(found)} cells, "
            f"its 80 % interval not below 1 in {not_worse:.0%}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
