"""All that the command line says: data to stdout, conversation to stderr.

Readable without color; `NO_COLOR` and pipes get none. rich is imported where a table is
drawn, not before: it would cost more than `--help` does in all.
"""

import json as _json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO


def data(text: str) -> None:
    """A line of what was asked for."""
    print(text, file=sys.stdout)


def json(value: Any) -> None:
    """What was asked for, for programs."""
    data(_json.dumps(value, indent=2, allow_nan=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """What was asked for, as a table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        drawn.add_column(Text(column))
    for row in rows:
        drawn.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    draw(drawn)


def draw(drawn: Any) -> None:
    """What was asked for, drawn by rich; in a pipe it is as wide as it needs to be."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 10_000
    Console(file=sys.stdout, width=width, highlight=False).print(drawn)


def say(text: str) -> None:
    """A line of conversation."""
    print(text, file=sys.stderr, flush=True)


def hint(text: str) -> None:
    """What to do next."""
    say(f"\n{_bold('hint', sys.stderr)}: {text}")


def error(message: str, advice: str | None = None) -> None:
    """What went wrong, and how to mend it."""
    say(f"{_bold('error', sys.stderr)}: {message}")
    if advice:
        hint(advice)


def _bold(text: str, stream: TextIO) -> str:
    colored = stream.isatty() and not os.environ.get("NO_COLOR")
    return f"\x1b[1m{text}\x1b[0m" if colored else text
