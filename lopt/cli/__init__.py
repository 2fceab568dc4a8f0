"""The command line: its table of contents, and the one place where errors end.

Exit codes: 0 done, 1 failed, 2 not a valid request, 130 interrupted. `LOPT_DEBUG=1` lets
errors through with their traceback. Importing this imports neither jax nor numpy.
"""

import os
import sys
from collections.abc import Callable, Sequence

import typer

from lopt.cli import console, evaluate, export, import_, listing, meta_train, show
from lopt.cli.options import epilog
from lopt.errors import LoptError

EXAMPLES = (
    "lopt meta-train digits --out runs/digits",
    "lopt evaluate runs/digits --suite digits-heldout",
    "lopt export runs/digits -o layerwise.safetensors",
)

app = typer.Typer(
    help="Meta-train, evaluate and export small learned optimizers.",
    epilog=epilog(EXAMPLES),
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("meta-train", epilog=epilog(meta_train.EXAMPLES))(meta_train.command)
app.command("evaluate", epilog=epilog(evaluate.EXAMPLES))(evaluate.command)
app.command("export", epilog=epilog(export.EXAMPLES))(export.command)
app.command("import", epilog=epilog(import_.EXAMPLES))(import_.command)
app.command("show", epilog=epilog(show.EXAMPLES))(show.command)
app.command("list", epilog=epilog(listing.EXAMPLES))(listing.command)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version."),
) -> None:
    if version:
        from lopt import __version__

        console.data(f"lopt {__version__}")
    elif context.invoked_subcommand is None:
        console.say(context.get_help())
        raise typer.Exit(2)


def main() -> None:
    """Runs the command that `sys.argv` asks for, and exits."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; errors become a line, a hint and an exit code.

    Args:
      arguments: of the command line, without the program's name; None: `sys.argv`.
    """
    # Interrupts come back from typer as the exit code 130.
    return ending(lambda: app(arguments, prog_name="lopt", standalone_mode=False))


def ending(work: Callable[[], int | None]) -> int:
    """The exit code of some work, its own or an error's, which is told in a line."""
    try:
        return work() or 0
    except Exception as error:
        if os.environ.get("LOPT_DEBUG"):
            raise
        return _report(error)


def _report(error: Exception) -> int:
    """Tells the user about an error, and returns the exit code."""
    if isinstance(error, LoptError):
        console.error(error.message, error.hint)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        console.error(*_usage(error))
        return getattr(error, "exit_code", 1)
    if isinstance(error, OSError) and error.strerror:
        where = f" `{error.filename}`" if error.filename else ""
        console.error(f"cannot use{where or ' a file'}: {error.strerror.lower()}")
        return 1
    first = (str(error).splitlines() or [""])[0]
    console.error(
        f"internal error: {type(error).__name__}: {first}",
        "this is a fault of lopt or of a task's own code; "
        "`LOPT_DEBUG=1` in front of the command shows where",
    )
    return 1


def _usage(error: typer.TyperException) -> tuple[str, str]:
    """The message and the hint for a command line that typer could not read."""
    near = getattr(error, "possibilities", None)  # of options, where one is alike
    message = str(error) if near else getattr(error, "format_message", error.__str__)()
    message, _, near_command = message.partition(" Did you mean ")
    message = (message[:1].lower() + message[1:].rstrip(".")).replace("'", "`")
    if near:
        return message, f"did you mean `{near[0]}`?"
    if near_command:
        return message, "did you mean " + near_command.replace("'", "`")
    command = getattr(getattr(error, "ctx", None), "command_path", "lopt")
    return message, f"`{command} --help` lists the options"
