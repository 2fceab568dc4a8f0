"""`lopt show`: what a suite, an exported file or a run is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lopt.cli import console, tables
from lopt.cli.options import Json, Trust
from lopt.config import (
    PretrainConfig,
    RunConfig,
    check_trust,
    load_suite,
    released,
    released_names,
    to_dict,
)
from lopt.config.plain import dotted
from lopt.errors import CheckpointError, ConfigError, unknown_name

EXAMPLES = (
    "lopt show digits",
    "lopt show small --cost",
    "lopt show runs/digits --json",
    "lopt show layerwise.safetensors",
    "lopt show runs/digits --picture policy.png",
)


def command(
    thing: Annotated[
        str,
        typer.Argument(
            metavar="SUITE|FILE|RUN",
            help="A suite, an exported file or a run: a released name or a path.",
        ),
    ],
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw what a learned optimizer decides: .png, .svg …"
        ),
    ] = None,
    cost: Annotated[
        bool,
        typer.Option(
            "--cost",
            help="Estimate what meta-training on a suite takes on this machine: its "
            "programs are compiled and run for a moment.",
        ),
    ] = False,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Show a suite, an exported file or a run."""
    if picture is not None:
        draw_policy(thing, picture)
        return
    path = Path(thing)
    if path.is_dir():
        _without(cost, thing)
        show_folder(path, json=json, trust=trust)
    elif path.suffix in (".toml", ".py"):
        show_suite(thing, json=json, cost=cost, trust=trust)
    elif path.is_file() or path.suffix or len(path.parts) > 1:
        _without(cost, thing)
        show_file(path, json=json, trust=trust)
    elif thing in released_names("tasks"):
        show_suite(thing, json=json, cost=cost, trust=trust)
    elif thing in released_names("checkpoints"):
        _without(cost, thing)
        show_file(released("checkpoints", thing), json=json, trust=trust)
    else:
        known = {*released_names("tasks"), *released_names("checkpoints")}
        raise unknown_name("suite, file or run", thing, known)


def _without(cost: bool, thing: str) -> None:
    """Raises `ConfigError` where the cost of something is asked for that is no suite."""
    if cost:
        raise ConfigError(
            f"`--cost` is of suites, and `{thing}` is none",
            hint="`lopt list suites` names the released ones",
        )


def show_suite(suite: str, *, json: bool, cost: bool, trust: bool) -> None:
    """The resolved configuration of a suite, the sizes of its tasks, and its cost."""
    config = load_suite(suite)
    sizes = estimate = None
    if _may_build(suite, config, cost=cost, trust=trust):
        from lopt.cli.process import set_up

        set_up()
        from lopt import costs
        from lopt.suites import build_tasks

        sizes = [vars(size) for size in costs.task_sizes(build_tasks(config, trust=True))]
        estimate = vars(costs.training_cost(config, trust=True)) if cost else None
    plain = to_dict(config)
    if json:
        console.json({"config": plain, "sizes": sizes, "cost": estimate})
        return
    tasks = plain.pop("tasks")
    console.data(f"{suite}: {plain.pop('description') or 'a suite'}")
    _tasks(tasks)
    if sizes:
        tables.sizes(sizes)
    _selection_tasks(plain)
    console.table(("key", "value"), dotted({k: plain[k] for k in plain if plain[k]}))
    if estimate:
        tables.cost(estimate)


def _may_build(suite: str, config: RunConfig, *, cost: bool, trust: bool) -> bool:
    """Whether a suite's tasks may be built, which runs the Python files it names."""
    try:
        check_trust(suite, config, trust=trust)
    except ConfigError as error:
        if cost:
            raise
        console.say(f"no sizes: {error.message}; with `--trust` it does")
        return False
    return True


def show_folder(path: Path, *, json: bool, trust: bool) -> None:
    """A folder that was exported, or a run."""
    from lopt.files import hub

    if hub.is_folder(path):
        show_file(path, json=json, trust=trust)
    else:
        show_run(path, json)


def show_file(path: Path, *, json: bool, trust: bool) -> None:
    """An exported file's or folder's header, its weights, and what an update costs."""
    from lopt.files import hub

    tensors, header = hub.read(path)
    shapes = {name: list(array.shape) for name, array in sorted(tensors.items())}
    size = sum(array.size for array in tensors.values())
    cost = _update_cost(path, trust=trust)
    if json:
        console.json(
            {
                "optimizer": header.optimizer,
                "file_hash": header.file_hash,
                "options": header.options,
                "mup_base": header.mup_base,
                "card": header.card,
                "tensors": shapes,
                "num_weights": size,
                "cost": cost,
            }
        )
        return
    count = f"{size:,} weights in {len(shapes)} tensors"
    console.data(f"{path}: learned optimizer `{header.optimizer}`, {count}")
    if cost:
        tables.update_cost(cost)
    for title, part in (
        ("option", header.options),
        ("tensor", shapes),
        ("card", _counted(header.card)),
        ("muP base", header.mup_base or {}),
    ):
        console.table((title, "value"), dotted(part))

    if header.optimizer == "layerwise":
        show_policy(path)


def _counted(card: dict[str, Any]) -> dict[str, Any]:
    """The card with the number of a selection's candidates in place of their scores."""
    selection = card.get("selection")
    if not selection:
        return card
    return {**card, "selection": selection | {"candidates": len(selection["candidates"])}}


def _update_cost(path: Path, *, trust: bool) -> dict[str, Any] | None:
    """The fields of `lopt.costs.UpdateCost`; None, said why, where it cannot be built."""
    from lopt.checkpoint import read
    from lopt.costs import update_cost

    try:
        return vars(update_cost(read(path, trust=trust)))
    except CheckpointError as error:
        hint = f"; {error.hint}" if error.hint else ""
        console.say(f"no costs: {error.message}{hint}")
        return None


def show_policy(path: Path) -> None:
    """What a learned optimizer decides over a run, role by role."""
    from lopt import show
    from lopt.checkpoint import read
    from lopt.decisions import has_policy

    checkpoint = read(path)
    if has_policy(checkpoint):
        curves = show.policy_curves(checkpoint)
        console.data(f"over a run of {len(curves.losses)} steps on {curves.task}:")
        columns = ("role", "learning rate", "its course", "decay", "gradient", "bases")
        console.table(columns, show.rows(curves))
        console.hint(f"`lopt show {path} --picture policy.png` draws it")


def draw_policy(optimizer: str, picture: Path) -> None:
    """The same as a picture, of a file, a run or a released name."""
    from lopt import show
    from lopt.checkpoint import read

    show.write_picture(show.policy_curves(read(optimizer)), picture)
    console.data(str(picture))


def show_run(folder: Path, json: bool) -> None:
    """How far a run is, and what it is told."""
    from lopt.files import rundir

    config = rundir.read_config(folder)
    metrics = rundir.read_metrics(folder)
    last = metrics[-1] if metrics else None
    selection = rundir.read_selection(folder)
    selected = selection[-1]["selected"] if selection else None
    if json:
        content = {"config": to_dict(config), "last": last}
        content |= {"selection": selection, "selected": selected}
        record = folder / rundir.RECORD
        content["record"] = rundir.read_json(record) if record.is_file() else None
        console.json(content)
        return
    step = last["step"] if last else 0
    console.data(f"{folder}: {step} of {config.outer_steps} meta-training steps")
    if last:
        console.table(("last step", "value"), dotted(last))
    if selected:
        _selection(selection, selected)
    plain = to_dict(config)
    _tasks(plain.pop("tasks"))
    _selection_tasks(plain)
    console.table(("key", "value"), dotted(plain))


def _selection(lines: list[dict[str, Any]], selected: dict[str, Any]) -> None:
    """Every candidate's score; the lowest is selected."""
    names = list(lines[0]["scores"])
    rows = []
    for line in lines:
        is_best = line["step"] == selected["step"]
        mark = f"selected: {selected['weights']}" if is_best else ""
        scores = [f"{line['scores'][name]:.4f}" for name in names]
        rows.append((line["step"], *scores, mark))
    columns = ["selection at step", *(f"score of {name}" for name in names), ""]
    console.table(columns, rows)


def _selection_tasks(plain: dict[str, Any]) -> None:
    """The tasks of the selection suite, taken out of a plain configuration."""
    tasks = plain["selection"].pop("tasks")
    if tasks:
        console.data("selection:")
        _tasks(tasks)


def _tasks(tasks: list[dict[str, Any]]) -> None:
    """One row a task; a column for each key that all have, one for all further ones."""
    tasks = [
        dict(dotted(task | ({"start": _start(task["start"])} if "start" in task else {})))
        for task in tasks
    ]
    keys = dict.fromkeys(key for task in tasks for key in task)
    columns = [key for key in keys if all(key in task for task in tasks)]
    further = [key for key in keys if key not in columns]
    rows = []
    for task in tasks:
        rest = ", ".join(f"{key}={task[key]}" for key in further if key in task)
        rows.append([task[key] for key in columns] + ([rest] if further else []))
    console.table(columns + (["further"] if further else []), rows)


def _start(start: Mapping[str, Any]) -> str:
    """In a line, what a task starts from: of pretraining what is not the default."""
    defaults = to_dict(PretrainConfig())
    parts = [start["file"]] if "file" in start else []
    if "pretrain" in start:
        told = {k: v for k, v in start["pretrain"].items() if defaults.get(k) != v}
        parts += [" ".join(["pretrained", *(f"{k}={v}" for k, v in told.items())])]
    parts += [f"{k} {' '.join(start[k])}" for k in ("frozen", "fresh") if start[k]]
    return ", ".join(parts)
