"""`lopt evaluate`: compare a learned optimizer with tuned baselines."""

from pathlib import Path
from typing import Annotated

import typer

from lopt.cli.options import Devices, Json, Trust

EXAMPLES = (
    "lopt evaluate runs/digits --suite digits-heldout",
    "lopt evaluate layerwise.safetensors --baseline adamw --baseline muon --trials 8",
)


def command(
    checkpoint: Annotated[
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
            help="Where results.json and report.html go.  [default: RUN/evaluation]",
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Hyperparameters tried for each baseline.")
    ] = 24,
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds that results are averaged over.")
    ] = 10,
    baselines: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="NAME|FILE",
            help="Compare with this one only; may be repeated.",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the suite."),
    ] = None,
    devices: Devices = None,
    trust: Trust = False,
    json: Json = False,
) -> None:
    """Compare a learned optimizer with tuned baselines on tasks it has not seen."""
    raise NotImplementedError
