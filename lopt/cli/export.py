"""`lopt export`: one self-describing file, or a folder for the Hub, from a run."""

import difflib
from collections.abc import Sequence
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
    "lopt export layerwise --format folder -o my-optimizer",
)

_FORMATS = ("file", "folder")

_NAMED_STEPS = ("best", "last")


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|CHECKPOINT",
            help="A run folder, one of its checkpoints, or what was exported.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FILE|DIR", help="The file or folder to write."
        ),
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="file|folder",
            help="One file, or that file in a folder for the Hugging Face Hub.",
        ),
    ] = "file",
    step: Annotated[
        str | None,
        typer.Option(
            metavar="N|best|last",
            help="Which weights of a run.  [default: best if selected, else last]",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file, but no folder, that exists.")
    ] = False,
    trust: Trust = False,
) -> None:
    """Write a learned optimizer as one self-describing safetensors file."""
    if kind not in _FORMATS:
        raise BrokenRule(
            "--format", "be `file` or `folder`", kind, hint=_near(kind, _FORMATS)
        )
    which = None if step is None else _step(step)
    from lopt.checkpoint import read, save_file, save_folder

    checkpoint = read(source, step=which, trust=trust)
    if kind == "folder":
        save_folder(checkpoint, out)
    else:
        save_file(checkpoint, out, overwrite=force)
    console.data(str(out))
    files = out.iterdir() if out.is_dir() else (out,)
    optimizer = checkpoint.header.optimizer
    size = sum(file.stat().st_size for file in files)
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
    hint = _near(text, _NAMED_STEPS)
    raise BrokenRule("--step", "be a step's number, `best` or `last`", text, hint=hint)


def _near(text: str, known: Sequence[str]) -> str | None:
    """A hint, where what was given is nearly one of these."""
    near = difflib.get_close_matches(text.lower(), known, n=1)
    return f"did you mean `{near[0]}`?" if near else None


def _what(card: dict[str, Any]) -> str:
    """Which weights a file has, as far as its card says."""
    if "weights" not in card:
        return ""
    average = "average at " if card["weights"] == "average" else ""
    selection = card.get("selection")
    score = f" (selected, score {selection['score']:.4f})" if selection else ""
    return f"{average}step {card['outer_steps']}{score}, "
