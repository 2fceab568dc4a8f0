"""`lopt list`: what has a name."""

from typing import Annotated, Any

import typer

from lopt.cli import console
from lopt.cli.options import Json
from lopt.config import load_suite, released, released_names
from lopt.errors import unknown_name

EXAMPLES = ("lopt list suites", "lopt list optimizers --json")


def command(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="suites, optimizers, estimators, baselines, bases, checkpoints "
            "or families.",
        ),
    ],
    json: Json = False,
) -> None:
    """List suites, optimizers and other things by name."""
    if kind not in KINDS:
        raise unknown_name("kind of thing", kind, KINDS)
    described = KINDS[kind]()
    if json:
        rows = [{"name": n, "description": text} for n, text in described.items()]
        console.json(rows)
    elif described:
        console.table(("name", "description"), described.items())
    else:
        console.say(f"no {kind}")


def _suites() -> dict[str, str]:
    return {name: load_suite(name).description for name in released_names("tasks")}


def _checkpoints() -> dict[str, str]:
    from lopt.files.fileformat import read_header

    described = {}
    for name in released_names("checkpoints"):
        header = read_header(released("checkpoints", name))
        suite = header.card.get("suite", "an unknown suite")
        described[name] = f"`{header.optimizer}`, meta-trained on `{suite}`"
    return described


def _optimizers() -> dict[str, str]:
    from lopt.optimizers import OPTIMIZERS

    return _documented(OPTIMIZERS)


def _estimators() -> dict[str, str]:
    from lopt.estimators import ESTIMATORS

    return _documented(ESTIMATORS)


def _bases() -> dict[str, str]:
    from lopt.bases import BASES

    return _documented(BASES)


def _families() -> dict[str, str]:
    from lopt.families import FAMILIES

    return _documented(FAMILIES)


def _baselines() -> dict[str, str]:
    from lopt.evaluation.baselines import BASELINES
    from lopt.evaluation.schedule import schedule

    described = {}
    for name, baseline in BASELINES.items():
        space = baseline.space
        text = f"tuned around learning rate {space.learning_rate:g}"
        if len(space.decays) > 1:
            text += f", weight decays {space.decays[0]:g} … {space.decays[-1]:g}"
        described[name] = text
    return {**described, **_documented({"schedule": schedule})}


def _documented(table: dict[str, Any]) -> dict[str, str]:
    """The first line of the docstring of each thing in a registry."""
    return {
        name: (thing.__doc__ or "").strip().partition("\n")[0].rstrip(".")
        for name, thing in table.items()
    }


KINDS = {
    "suites": _suites,
    "optimizers": _optimizers,
    "estimators": _estimators,
    "baselines": _baselines,
    "bases": _bases,
    "checkpoints": _checkpoints,
    "families": _families,
}
