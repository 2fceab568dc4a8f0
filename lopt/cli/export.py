"""`lopt export`: one self-describing file from a run."""

from pathlib import Path
from typing import Annotated

import typer

from lopt.cli import console
from lopt.cli.options import Trust

EXAMPLES = (
    "lopt export runs/digits -o layerwise.safetensors",
    "lopt export runs/digits/checkpoints/100 -o early.safetensors --force",
)


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|CHECKPOINT", help="A run folder, or one of its checkpoints."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if it exists.")
    ] = False,
    trust: Trust = False,
) -> None:
    """Write a learned optimizer as one self-describing safetensors file."""
    from lopt.checkpoint import read, save_file

    checkpoint = read(source, trust=trust)
    save_file(checkpoint, out, overwrite=force)
    console.data(str(out))
    optimizer, size = checkpoint.header.optimizer, out.stat().st_size
    console.say(f"exported `{optimizer}` from `{source}`, {size:,} bytes")
    console.hint(f'in Python: `lopt.load("{out}", num_steps=…)`; or `lopt show {out}`')
