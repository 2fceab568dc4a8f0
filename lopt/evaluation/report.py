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
    """Speed-ups by task, for the terminal; narrow, to fit into 80 columns."""
    tasks, found = results.tasks, [*results.tasks, results]
    columns = {"task": [*(task.name for task in tasks), "median"]}
    columns["speed-up"] = [f"[bold]{x.speed_up}[/]" for x in found]
    columns["80 %"] = [x.speed_up.range80 for x in found]
    for name in results.speed_up_over:
        columns[f"over\n{name}"] = [str(x.speed_up_over[name]) for x in found]
    if len(results.speed_up_over) <= MOST_WITH_LOSSES:
        best = [_contender(task, task.best_baseline) for task in tasks]
        columns["loss"] = [*(_final_loss(task.contenders[0]) for task in tasks), ""]
        columns["best's\nloss"] = [*map(_final_loss, best), ""]
    title = f"speed-up of {results.optimizer}, budget for budget"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    widths = {"task": min(max(map(len, columns["task"])), 14), "80 %": 9}
    for header in columns:
        justify = "left" if header == "task" else "right"
        width = widths.get(header, 5)
        table.add_column(header, justify=justify, min_width=width, overflow="fold")
    *rows, median = zip(*columns.values(), strict=True)
    for row in rows:
        table.add_row(*row)
    table.add_section()
    table.add_row(*median)
    return table


def _final_loss(contender: ContenderResult) -> str:
    """Of its longest run."""
    return f"{contender.budgets[-1].loss:.3g}"


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


def _contender(task: TaskResult, name: str) -> ContenderResult:
    return next(c for c in task.contenders if c.name == name)
