"""`lopt import`: weights that another project has published, as one of our files."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lopt.cli import console
from lopt.config import parse_overrides
from lopt.errors import ConfigError, unknown_name
from lopt.published.layouts import ARCHITECTURES

EXAMPLES = (
    "lopt import theta.state --as adafac_mlp",
    "lopt import model.safetensors --as mup_adafac --set step_mult=0.02",
    "lopt import theta.pt --as mup_adafac --set theta.rms_decays=[0.01]",
)


def command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Flax msgpack, safetensors or a torch state dict."
        ),
    ],
    architecture: Annotated[
        str,
        typer.Option(
            "--as", metavar="NAME", help=f"One of {', '.join(sorted(ARCHITECTURES))}."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The file to write.  [default: NAME.safetensors]",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A constant that the file does not carry: an option of NAME, or "
            "theta.TENSOR; repeatable.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if it exists.")
    ] = False,
) -> None:
    """Turn weights that another project has published into a file of lopt."""
    if architecture not in ARCHITECTURES:
        raise unknown_name("architecture to import", architecture, ARCHITECTURES)
    settings = parse_overrides(sets or [], example="step_mult=0.01")
    out = out or Path(f"{architecture}.safetensors")
    if out.exists() and file.exists() and out.samefile(file):
        raise ConfigError(f"`--out` must be another file than the imported `{file}`")

    from lopt.checkpoint import save_file
    from lopt.published.importing import import_file

    imported = import_file(file, architecture, settings)
    save_file(imported.checkpoint, out, overwrite=force)
    console.data(str(out))
    console.say(
        f"imported `{architecture}` from `{file}`: {imported.format}, as "
        f"{imported.source} names it"
    )
    given = {*settings, *(f"theta.{name}" for name in settings.get("theta", {}))}
    for name, value in imported.constants.items():
        origin = "as you set it" if name in given else "the default"
        console.say(f"not in the file: {name} = {json.dumps(value)}, {origin}")
    console.hint(f'in Python: `lopt.load("{out}", num_steps=…)`; or `lopt show {out}`')
