"""`lopt export`: one self-describing file from a run."""

import difflib
from pathlib import Path
from typing import Annotated, Any

import typer

from lopt.cli import console
from lopt.cli.options import Trust
from lopt.config import BrokenRule

EXAMPLES = (
    "lopt export runs/digits -o layerwise.safetensors",
    "lopt export runs/digits --step last -o last.safetensors",
    "lopt export runs/digits/checkpoints/100 -o early.safetensors --force",
)

_NAMED_STEPS = ("best", "last")


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
    step: Annotated[
        str | None,
        typer.Option(
            metavar="N|best|last",
            help="Which weights of a run.  [default: best if selected, else last]",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if it exists.")
    ] = False,
    trust: Trust = False,
) -> None:
    """Write a learned optimizer as one self-describing safetensors file."""
    which = None if step is None else _step(step)
    from lopt.checkpoint import read, save_file

    checkpoint = read(source, step=which, trust=trust)
    save_file(checkpoint, out, overwrite=force)
    console.data(str(out))
    optimizer, size = checkpoint.header.optimizer, out.stat().st_size
    what = _what(checkpoint.header.card)
    console.say(f"exported `{optimizer}` from `{source}`, {what}{size:,} bytes")
    trusted = ", trust=True" if checkpoint.header.file_hash else ""
    call = f'lopt.load("{out}", num_steps=…{trusted})'
    console.hint(f"in Python: `{call}`; or `lopt show {out}`")


def _step(text: str) -> Any:
    """A step's number, "best" or "last"."""
    if text in _NAMED_STEPS:
        return text
    if text.isdecimal():
        return int(text)
    near = difflib.get_close_matches(text.lower(), _NAMED_STEPS, n=1)
    hint = f"did you mean `{near[0]}`?" if near else None
    raise BrokenRule("--step", "be a step's number, `best` or `last`", text, hint=hint)


def _what(card: dict[str, Any]) -> str:
    """Which weights a file has, as far as its card says."""
    if "weights" not in card:
        return ""
    average = "average at " if card["weights"] == "average" else ""
    selection = card.get("selection")
    score = f" (selected, score {selection['score']:.4f})" if selection else ""
    return f"{average}step {card['outer_steps']}{score}, "
