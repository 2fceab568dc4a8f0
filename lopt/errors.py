"""The one kind of error that a user is meant to see, and its spelling help.

Programmers' mistakes are `ValueError` and `TypeError`, raised at build or trace time.
Users' mistakes are `LoptError`: one line that names the thing, the rule and the value,
and a hint with the fix. The command line prints both and exits with `exit_code`.
This module uses the standard library alone: it is imported before jax.
"""

import difflib
from collections.abc import Iterable


class LoptError(Exception):
    """A mistake that its reader can mend: a message, a hint, an exit code.

    Args:
      message: one line, lowercase, no full stop: the thing, the rule, the value.
      hint: how to mend it, where that is known; a command if possible.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(LoptError):
    """A suite, an option or an argument that breaks a rule: a usage error."""

    exit_code = 2


class CheckpointError(LoptError):
    """A checkpoint or an exported file that is absent, damaged or foreign."""


def unknown_name(
    kind: str,
    name: str,
    known: Iterable[str],
    *,
    hint: str | None = None,
    error: type[LoptError] = ConfigError,
) -> LoptError:
    """The error for a name that is not in a registry, with the nearest match.

    Args:
      kind: what the name should name, e.g. "optimizer" or "key of `unroll`".
      name: what was given.
      known: the names that would have been right.
      hint: said in place of the list of names where nothing is near.
      error: the class of the error.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        hint = f"did you mean `{near[0]}`?"
    elif hint is None:
        hint = "known: " + ", ".join(f"`{k}`" for k in known)
    return error(f"unknown {kind} `{name}`", hint=hint)
