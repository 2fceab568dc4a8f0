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
    rows = KINDS[kind]()
    if json:
        console.json(rows)
    elif rows:
        columns = [key.replace("_", " ") for key in rows[0]]
        console.table(columns, [tuple(row.values()) for row in rows])
    else:
        console.say(f"no {kind}")


Rows = list[dict[str, Any]]
"""One dict a thing, all with the same keys: `name`, …, `description`."""


def _suites() -> Rows:
    rows = []
    for name in released_names("tasks"):
        config = load_suite(name)
        row = {"name": name, "tasks": len(config.tasks)}
        row |= {"outer_steps": config.outer_steps, "optimizer": config.optimizer.name}
        rows.append(row | {"description": config.description})
    return rows


def _checkpoints() -> Rows:
    from lopt.files.fileformat import read_header

    described = {}
    for name in released_names("checkpoints"):
        header = read_header(released("checkpoints", name))
        suite = header.card.get("suite", "an unknown suite")
        described[name] = f"`{header.optimizer}`, meta-trained on `{suite}`"
    return _rows(described)


def _optimizers() -> Rows:
    from lopt.optimizers import OPTIMIZERS

    return _rows(_documented(OPTIMIZERS))


def _estimators() -> Rows:
    from lopt.estimators import ESTIMATORS

    return _rows(_documented(ESTIMATORS))


def _bases() -> Rows:
    from lopt.bases import BASES

    return _rows(_documented(BASES))


def _families() -> Rows:
    from lopt.families import FAMILIES

    return _rows(_documented(FAMILIES))


def _baselines() -> Rows:
    from lopt.evaluation.baselines import BASELINES
    from lopt.evaluation.schedule import schedule

    described = {}
    for name, baseline in BASELINES.items():
        space = baseline.space
        text = f"tuned around learning rate {space.learning_rate:g}"
        if len(space.decays) > 1:
            text += f", weight decays {space.decays[0]:g} … {space.decays[-1]:g}"
        described[name] = text
    return _rows({**described, **_documented({"schedule": schedule})})


def _rows(described: dict[str, str]) -> Rows:
    return [{"name": name, "description": text} for name, text in described.items()]


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
