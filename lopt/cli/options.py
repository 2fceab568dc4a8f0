"""Options that several commands share, and the examples under their help."""

from collections.abc import Sequence
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the Python files that are named.")
]
Devices = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        help="CPU devices that the work is spread over.  [default: cores, at most 8]",
    ),
]


def epilog(examples: Sequence[str]) -> str:
    """The end of a command's help: lines that can be run as they are."""
    # \b keeps click's formatter from joining the lines.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples)
