"""`lopt meta-train`: train the weights of a learned optimizer on a suite of tasks."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lopt.cli import console
from lopt.cli.options import Devices, Trust
from lopt.config import check_trust, load_suite

EXAMPLES = (
    "lopt meta-train digits --out runs/digits",
    "lopt meta-train digits --out runs/digits --resume",
    "lopt meta-train my_task.py --from runs/digits --set outer_steps=100",
    "lopt meta-train digits --set unroll.length=25 --set tasks.0.width=64",
)


def command(
    suite: Annotated[
        str,
        typer.Argument(
            metavar="SUITE",
            help="A released suite's name, a TOML file, or a Python file with a "
            "function `task`.",
        ),
    ] = "digits",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run folder.  [default: runs/SUITE]"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of every random draw.  [default: 0]")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Override a key of the configuration."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the run folder.")
    ] = False,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE|RUN",
            help="Start from the weights of an exported file, a released name or a run.",
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Learned optimizer; drops the suite's options."
        ),
    ] = None,
    estimator: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Meta-gradient estimator; drops the suite's options."
        ),
    ] = None,
    devices: Devices = None,
    trust: Trust = False,
) -> None:
    """Meta-train a learned optimizer on a suite of tasks."""
    flags = {"seed": seed, "optimizer.name": optimizer, "estimator.name": estimator}
    given = [f"{key}={json.dumps(v)}" for key, v in flags.items() if v is not None]
    config = load_suite(suite, given + (sets or []))
    trust = check_trust(suite, config, trust=trust)
    out = out or Path("runs") / Path(suite).stem

    from lopt.cli.process import set_up

    set_up(devices)
    from lopt.cli.progress import TrainingBar
    from lopt.run import meta_train

    with TrainingBar() as bar:
        run = meta_train(
            config,
            out=out,
            resume=resume,
            start_from=start_from,
            trust=trust,
            progress=bar,
        )
    console.data(str(run.folder))
    console.hint(f"`lopt evaluate {out}` compares it with tuned baselines")
