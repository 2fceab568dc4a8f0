"""Where a learned optimizer wins and where not: a grid of tasks around a center.

    python scripts/generalise.py runs/a.safetensors runs/b.safetensors runs/c.safetensors
    python scripts/generalise.py layerwise --axis width=8,64 --trials 4 --seeds 8

One property of the task at a time is moved away from the center (3x32, ReLU, digits,
batches of 64, 500 steps), and some are moved together. In every cell all files, which
may be several meta-seeds of one recipe, and all baselines, tuned for the cell, are
compared budget for budget as by `lopt evaluate`. Of each file the speed-up over the best
baseline, over AdamW and over `static` goes into benchmarks/generalise.json and the heat
maps of benchmarks/generalise.png. Both are written anew after every cell; the same
command goes on where it was stopped.

A small run, such as the second one above, takes minutes, the whole grid hours.
"""

import argparse
import hashlib
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

from bench_digits import read_all

ROOT = Path(__file__).resolve().parent.parent
CENTER = {
    "width": 32,
    "depth": 3,
    "num_steps": 500,
    "batch_size": 64,
    "activation": "relu",
    "dataset": "digits",
    "label_noise": 0.0,
}
AXES = {
    "width": [8, 16, 64, 128, 256],
    "depth": [1, 2, 5, 6, 8],
    "num_steps": [100, 250, 1000, 2000, 4000],
    "batch_size": [8, 16, 256, 512],
    "activation": ["tanh", "gelu", "silu"],
    "dataset": ["digits-permuted", "digits-regrouped", "patches"],
    "label_noise": [0.1, 0.2, 0.4],
    "num_examples": [50, 100, 300],
}
CORNERS = [
    {"width": 256, "depth": 6},
    {"depth": 8, "batch_size": 8},
    {"depth": 6, "num_steps": 2000},
    {"width": 128, "dataset": "patches"},
    {"batch_size": 8, "label_noise": 0.4},
    {"activation": "tanh", "width": 128},
]
OVER = {"best": ("sgd", "adam", "adamw", "lion", "muon")}
OVER |= {"adamw": ("adamw",), "static": ("static",)}
SETTINGS = ("trials", "seeds", "tuning_seeds", "budgets", "seed")


def main() -> None:
    options = parse()
    from lopt.cli import ending

    sys.exit(ending(lambda: run(options)))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="exported files, runs or names")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/generalise")
    parser.add_argument(
        "--axis", action="append", metavar="NAME[=V,V]", help="only this; repeatable"
    )
    parser.add_argument("--center", action="append", default=[], metavar="NAME=V")
    parser.add_argument("--no-corners", action="store_true")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--tuning-seeds", type=int, default=3)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.125, 0.25, 0.5, 1])
    parser.add_argument("--seed", type=int, default=2)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Every cell that is not there yet, and the files after each."""
    from lopt.cli.process import set_up

    set_up()
    from lopt.cli.progress import Bar

    learned = read_all(options.files)
    cells = grid(options.center, options.axis, corners=not options.no_corners)
    tasks = {name: build(name, cell) for name, cell in cells.items()}
    content = start(options, learned)
    with Bar() as bar:
        for i, (name, task) in enumerate(tasks.items()):
            if content["cells"].get(name, {}).get("task") == cells[name]:
                continue

            def progress(text: str, fraction: float, i=i, name=name) -> None:
                bar.update(f"{name}: {text}", (i + fraction) / len(tasks))

            measured = measure(learned, task, content["settings"], progress)
            content["cells"][name] = {"task": cells[name], **measured}
            write(content, options.out)
            bar.note(f"{name}: {row(content['cells'][name])}")
    print(table(content))


def grid(center: list[str], axes: list[str] | None, *, corners: bool) -> dict[str, dict]:
    """The properties of each cell's task by the cell's name, the center first."""
    middle = CENTER | dict(_parsed(item) for item in center)
    given = dict(_parsed(item, many=True) for item in axes or AXES)
    cells = {"center": middle}
    for axis, values in given.items():
        for value in values or AXES[axis]:
            if middle.get(axis) != value:
                cells[f"{axis} {value}"] = middle | {axis: value}
    for corner in CORNERS if corners and not axes else ():
        name = ", ".join(f"{key} {value}" for key, value in corner.items())
        cells[name] = middle | corner
    return cells


def _parsed(item: str, *, many: bool = False) -> tuple[str, Any]:
    """`name=value` or, of many, `name=value,value` and `name`."""
    name, _, text = item.partition("=")
    if name not in {**CENTER, **AXES}:
        sys.exit(f"error: unknown axis `{name}`\nhint: known: {', '.join(AXES)}")
    values = [_value(part) for part in text.split(",") if part]
    return name, values if many else values[0]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def build(name: str, cell: dict[str, Any]):
    """The cell's task."""
    from lopt.config import RunConfig, TaskConfig
    from lopt.suites import build_tasks

    properties = dict(cell)
    num_steps = properties.pop("num_steps")
    entry = TaskConfig(family="mlp", name=name, num_steps=num_steps, options=properties)
    (built,) = build_tasks(RunConfig(tasks=(entry,)))
    return built


Over = dict[str, tuple[str, ...]]
"""The baselines, the best of which a speed-up is over, by what that is called."""


def measure(
    learned: dict, task, settings: dict[str, Any], progress, over: Over | None = None
) -> dict[str, Any]:
    """Speed-ups of every file in one cell, and all losses."""
    over = over or OVER
    from dataclasses import asdict

    from lopt.evaluation.comparison import evaluate
    from lopt.evaluation.summary import speed_up_over

    began = time.perf_counter()
    (first, ours), *others = learned.items()
    rivals = [(name, other.lopt, other.theta) for name, other in others]
    results = evaluate(
        ours.lopt,
        ours.theta,
        [task],
        name=first,
        baselines=[*dict.fromkeys(itertools.chain(*over.values())), *rivals],
        progress=progress,
        **settings,
    )
    (found,) = results.tasks
    return {
        "speed_up": {
            name: {
                title: asdict(speed_up_over(found, name, names, settings["seed"]))
                for title, names in over.items()
            }
            for name in learned
        },
        "loss": {c.name: [b.loss for b in c.budgets] for c in found.contenders},
        "budgets": [b.num_steps for b in found.contenders[0].budgets],
        "seconds": round(time.perf_counter() - began, 1),
    }


def start(options: argparse.Namespace, learned: dict) -> dict[str, Any]:
    """What was measured before with the same files and settings, or nothing yet."""
    import jax

    from lopt import __version__
    from lopt.errors import ConfigError

    content = {
        "command": " ".join(["python", "scripts/generalise.py", *sys.argv[1:]]),
        "versions": {"lopt": __version__, "jax": jax.__version__},
        "device": jax.devices()[0].device_kind,
        "files": {name: _fingerprint(found.theta) for name, found in learned.items()},
        "settings": {key: getattr(options, key) for key in SETTINGS},
        "cells": {},
    }
    path = options.out.with_suffix(".json")
    if not path.is_file():
        return content
    before = json.loads(path.read_text())
    for key in ("files", "settings"):
        if before[key] != content[key]:
            raise ConfigError(
                f"`{path}` has cells of other {key}: {before[key]}, not {content[key]}",
                hint="choose another `--out`, or move that file away",
            )
    return content | {"cells": before["cells"]}


def _fingerprint(theta: Any) -> str:
    """Of the weights, to know them again."""
    import jax
    import numpy as np

    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(theta)]
    return hashlib.sha256(b"".join(leaves)).hexdigest()[:16]


def write(content: dict[str, Any], out: Path) -> None:
    """The JSON and the picture, each moved to its place when it is whole."""
    write_picture(content, out)
    write_json(content, out)


def write_picture(content: dict[str, Any], out: Path, over: Over | None = None) -> None:
    """The heat maps of these comparisons."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial.png")
    heat_maps(content, over or OVER).savefig(partial, dpi=110)
    partial.replace(out.with_suffix(".png"))


def write_json(content: dict[str, Any], out: Path) -> None:
    """The content itself."""
    partial = out.with_name(f".{out.name}.partial.json")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(out.with_suffix(".json"))


def row(cell: dict[str, Any], over: Over | None = None) -> str:
    """The speed-ups of one cell, the lowest of all files."""
    return ", ".join(f"{min(values(cell, o)):.2f} over {o}" for o in over or OVER)


def values(cell: dict[str, Any], over: str) -> list[float]:
    """One speed-up for each file."""
    return [found[over]["value"] for found in cell["speed_up"].values()]


def table(content: dict[str, Any]) -> str:
    """The lowest speed-up of all files in every cell, as Markdown."""
    lines = ["| cell | " + " | ".join(f"over {over}" for over in OVER) + " |"]
    lines.append("|---" * (len(OVER) + 1) + "|")
    for name, cell in content["cells"].items():
        texts = [f"{min(values(cell, over)):.2f}" for over in OVER]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def heat_maps(content: dict[str, Any], comparisons: Over):
    """A map for each comparison: cells downwards, files across, in logs around 1."""
    import numpy as np
    from matplotlib.figure import Figure

    cells, files = content["cells"], list(content["files"])
    number = len(comparisons)
    height, width = 1.6 + 0.26 * len(cells), 2.6 + number * (0.5 + 0.75 * len(files))
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, number, sharey=True, squeeze=False)[0]
    for axes, over in zip(panels, comparisons, strict=True):
        logs = np.log2([values(cell, over) for cell in cells.values()])
        drawn = axes.imshow(logs, cmap="RdBu", vmin=-3, vmax=3, aspect="auto")
        for y, cell in enumerate(cells.values()):
            for x, found in enumerate(cell["speed_up"].values()):
                _number(axes, x, y, found[over])
        axes.set_xticks(range(len(files)), files, rotation=90 if len(files) > 1 else 0)
        axes.set_title("over the best" if over == "best" else f"over {over}")
        groups = ["corner" if "," in name else name.split()[0] for name in cells]
        for y, (before, group) in enumerate(itertools.pairwise(groups), 1):
            if group != before:
                axes.axhline(y - 0.5, color="black", linewidth=0.8)
    panels[0].set_yticks(range(len(cells)), list(cells))
    bar = figure.colorbar(drawn, ax=panels, fraction=0.04, label="times fewer steps")
    bar.set_ticks([-3, -2, -1, 0, 1, 2, 3], labels="⅛ ¼ ½ 1 2 4 8".split())
    return figure


def _number(axes, x: int, y: int, found: dict[str, Any]) -> None:
    """A speed-up; faint where its 80 % interval holds 1."""
    sign = {"exact": "", "at least": "≥", "at most": "≤"}[found["bound"]]
    low, high = found["interval80"]
    strong = found["value"] > 3 or found["value"] < 1 / 3
    style = {"color": "white" if strong else "black", "fontsize": 8}
    style |= {"alpha": 0.45, "fontstyle": "italic"} if low <= 1 <= high else {}
    text = f"{sign}{found['value']:.{1 if found['value'] >= 1 else 2}f}"
    axes.text(x, y, text, ha="center", va="center", **style)


if __name__ == "__main__":
    main()
