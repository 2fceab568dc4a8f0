"""`lopt export`: one self-describing file from a run, or another form of it."""

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
    "lopt export layerwise --format python -o my_optimizer.py",
    "lopt export layerwise --format python --framework torch -o my_optimizer.py",
    "lopt export layerwise --format schedule -o schedule.safetensors",
    "lopt export layerwise --format stablehlo --like params.safetensors "
    "--num-steps 1000 -o compiled",
)

_FORMATS = ("file", "folder", "python", "schedule", "stablehlo")
_FRAMEWORKS = ("optax", "torch")

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
            metavar="|".join(_FORMATS),
            help="One file; that file in a folder for the Hugging Face Hub; one of "
            "Python code that needs no lopt; a frozen schedule; the compiled update.",
        ),
    ] = "file",
    framework: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(_FRAMEWORKS),
            help="python: what the file needs in place of lopt.  [default: optax]",
        ),
    ] = None,
    step: Annotated[
        str | None,
        typer.Option(
            metavar="N|best|last",
            help="Which weights of a run.  [default: best if selected, else last]",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="PARAMS", help="stablehlo: a safetensors file of the parameters."
        ),
    ] = None,
    num_steps: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="stablehlo, schedule: the run length."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file, but no folder, that exists.")
    ] = False,
    trust: Trust = False,
) -> None:
    """Write a learned optimizer as one self-describing safetensors file."""
    _check(kind, framework, like, num_steps)
    which = None if step is None else _step(step)
    from lopt.checkpoint import read

    checkpoint = read(source, step=which, trust=trust)
    if kind == "file":
        from lopt.checkpoint import save_file

        save_file(checkpoint, out, overwrite=force)
    elif kind == "folder":
        from lopt.checkpoint import save_folder

        save_folder(checkpoint, out)
    elif kind == "python":
        from lopt.export import python

        python.write(
            checkpoint, out, framework=framework or _FRAMEWORKS[0], overwrite=force
        )
    elif like is not None:
        from lopt.export import stablehlo

        stablehlo.write(checkpoint, out, like=like, num_steps=num_steps)
    else:
        from lopt.export import schedule

        schedule.write(
            checkpoint,
            out,
            num_steps=num_steps,
            notify=lambda text, units: console.say(text),
            overwrite=force,
            trust=trust,
        )
    console.data(str(out))
    files = out.iterdir() if out.is_dir() else (out,)
    optimizer = checkpoint.header.optimizer
    size = sum(file.stat().st_size for file in files)
    what = _what(checkpoint.header.card)
    console.say(f"exported `{optimizer}` from `{source}`, {what}{size:,} bytes")
    console.hint(_hint(kind, out, trust=bool(checkpoint.header.file_hash)))


def _check(
    kind: str, framework: str | None, like: Path | None, num_steps: int | None
) -> None:
    """Raises `BrokenRule` for an unknown format and for options of other formats."""
    _check_name("--format", kind, _FORMATS)
    if framework is not None:
        _check_name("--framework", framework, _FRAMEWORKS)
        if kind != "python":
            raise BrokenRule("--framework", "go with `--format python` alone", kind)
    if kind == "stablehlo" and like is None:
        rule = "be given with `--format stablehlo`"
        hint = "a safetensors file with the names and shapes of the parameters"
        raise BrokenRule("--like", rule, None, hint=hint)
    if kind != "stablehlo" and like is not None:
        raise BrokenRule("--like", "go with `--format stablehlo` alone", kind)
    if kind not in ("stablehlo", "schedule") and num_steps is not None:
        rule = "go with `--format stablehlo` or `schedule` alone"
        raise BrokenRule("--num-steps", rule, kind, hint="`lopt.load` takes it")


def _check_name(option: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        names = [f"`{name}`" for name in known]
        rule = f"be {', '.join(names[:-1])} or {names[-1]}"
        raise BrokenRule(option, rule, given, hint=_near(given, known))


def _hint(kind: str, out: Path, *, trust: bool) -> str:
    """How what was written is used."""
    if kind == "python":
        return f"in Python: `from {out.stem} import load`"
    if kind == "stablehlo":
        return f"`{out / 'README.md'}` says how it is called"
    trusted = ", trust=True" if trust else ""
    call = f'lopt.load("{out}", num_steps=…{trusted})'
    return f"in Python: `{call}`; or `lopt show {out}`"


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
