"""An evaluation for people: a table in the terminal, `results.json`, `report.html`.

results.py documents the content of `results.json`, page.py makes `report.html`. Files
are written beside their place and moved there, so that a reader never finds half of one.
"""

import contextlib
import json
import os
from pathlib import Path

from rich import box
from rich.table import Table

from lopt.errors import LoptError
from lopt.evaluation.page import html_report
from lopt.evaluation.results import ContenderResult, Results, TaskResult, to_dict

MOST_WITH_LOSSES = 5
"""With more baselines the table in the terminal has speed-ups alone."""
RESULTS_FILE = "results.json"
REPORT_FILE = "report.html"


def summary_table(results: Results) -> Table:
    """Speed-ups by task, for the terminal."""
    title = f"speed-up of {results.optimizer}, budget for budget"
    # Narrow, so that five baselines fit into 80 columns; more leave no room for the rest.
    is_short = len(results.speed_up_over) > MOST_WITH_LOSSES
    padding = (0, 0 if is_short else 1, 0, 0)
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=padding, pad_edge=False)
    longest = max(len(task.name) for task in results.tasks)
    table.add_column("task", overflow="fold", min_width=min(longest, 14))
    if not is_short:
        table.add_column("steps", justify="right")
    for column in ("speed-up", "80 %", *_over(results)):
        width = 9 if column == "80 %" else 5
        table.add_column(column, justify="right", min_width=width)
    if not is_short:
        table.add_column("loss", justify="right", min_width=6)
        table.add_column("best baseline")
    for task in results.tasks:
        row = [task.name, *_speed_ups(task)]
        if not is_short:
            best = _contender(task, task.best_baseline)
            row.insert(1, str(task.num_steps))
            row.append(f"{task.contenders[0].budgets[-1].loss:.3g}")
            row.append(f"{best.name} {best.budgets[-1].loss:.3g}")
        table.add_row(*row)
    table.add_section()
    table.add_row("median", *([] if is_short else [""]), *_speed_ups(results))
    return table


def _speed_ups(found: TaskResult | Results) -> list[str]:
    """Over the best, with its interval, and over each."""
    over = (str(s) for s in found.speed_up_over.values())
    return [f"[bold]{found.speed_up}[/]", found.speed_up.range80, *over]


def winners(results: Results) -> list[str]:
    """Who won, a line for each task."""
    return [f"{task.name}: {task.winner}" for task in results.tasks]


def write(results: Results, directory: Path) -> tuple[Path, Path]:
    """Writes `results.json` and `report.html` into a directory, made if need be.

    Raises:
      LoptError: the directory or the files cannot be written.
    """
    content = json.dumps(to_dict(results), indent=1, allow_nan=False)
    pages = {RESULTS_FILE: content + "\n", REPORT_FILE: html_report(results)}
    for name, text in pages.items():
        _write(directory / name, text)
    return directory / RESULTS_FILE, directory / REPORT_FILE


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise LoptError(f"cannot write `{path}`: {reason.lower()}") from error


def _over(results: Results) -> list[str]:
    return [f"over\n{name}" for name in results.speed_up_over]


def _contender(task: TaskResult, name: str) -> ContenderResult:
    return next(c for c in task.contenders if c.name == name)
