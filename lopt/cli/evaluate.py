"""`lopt evaluate`: compare a learned optimizer with tuned baselines."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lopt.cli import console
from lopt.cli.options import Devices, Json, Trust
from lopt.config import RunConfig, check_trust, load_suite
from lopt.errors import unknown_name

EXAMPLES = (
    "lopt evaluate runs/digits --suite digits-heldout",
    "lopt evaluate layerwise.safetensors --baselines muon,static,schedule --trials 8",
    "lopt evaluate runs/digits --budget 0.5 --budget 1 --out results --json",
)


def command(
    optimizer: Annotated[
        str,
        typer.Argument(
            metavar="FILE|RUN", help="An exported file, a released name or a run."
        ),
    ],
    suite: Annotated[
        str, typer.Option(metavar="SUITE", help="Tasks to compare on.")
    ] = "digits-heldout",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for results.json and report.html.  "
            "[default: RUN/evaluation, or evaluations/FILE]",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Points tuned over, per baseline.  [default: 16]"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=2, help="Seeds of the reported runs.  [default: 16]"),
    ] = None,
    baselines: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            "--baselines",
            metavar="NAME|FILE,…",
            help="Compare with these, or the controls `static` and `schedule`; "
            "repeatable.  [default: all baselines]",
        ),
    ] = None,
    budgets: Annotated[
        list[float] | None,
        typer.Option(
            "--budget",
            help="Run length as a fraction of the task's; repeatable.  "
            "[default: 0.125, 0.25, 0.5, 1]",
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            metavar="NAME",
            help="Evaluate on this task of the suite; repeatable.  [default: all]",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the suite."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an evaluation that is there.")
    ] = False,
    devices: Devices = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Compare a learned optimizer with tuned baselines on tasks it has not seen."""
    config = _selected(load_suite(suite, sets or []), tasks)
    trust = check_trust(suite, config, trust=trust)
    out = out or _default_folder(Path(optimizer))

    from lopt.cli.process import set_up

    set_up(devices)
    from lopt.cli.progress import Bar
    from lopt.evaluation import evaluate, report, results

    given = {"trials": trials, "seeds": seeds, "budgets": budgets}
    with Bar() as bar:
        found = evaluate(
            optimizer,
            config,
            out=out,
            overwrite=force,
            baselines=_names(baselines),
            trust=trust,
            progress=bar.update,
            **{key: value for key, value in given.items() if value},
        )
    if json:
        console.json(results.to_dict(found))
    else:
        console.draw(report.summary_table(found))
        for line in [*report.winners(found), *results.earned(found)]:
            console.data(line)
    console.say(f"wrote {out / report.RESULTS_FILE} and {out / report.REPORT_FILE}")
    console.hint(f"open `{out / report.REPORT_FILE}` in a browser")


def _names(lists: list[str] | None) -> list[str] | None:
    """What was given with commas, or one by one, as one list."""
    return [name for part in lists for name in part.split(",")] if lists else None


def _selected(config: RunConfig, names: list[str] | None) -> RunConfig:
    """The configuration with only those of its tasks that have been named."""
    if not names:
        return config
    known = {task.name: task for task in config.tasks if task.name is not None}
    for name in names:
        if name not in known:
            raise unknown_name(f"task of suite `{config.suite}`", name, known)
    return replace(config, tasks=tuple(known[name] for name in dict.fromkeys(names)))


def _default_folder(optimizer: Path) -> Path:
    """Inside a run; beside everything else for all others."""
    from lopt.files import hub

    if optimizer.is_dir() and not hub.is_folder(optimizer):
        return optimizer / "evaluation"
    return Path("evaluations") / optimizer.stem
