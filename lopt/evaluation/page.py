"""An evaluation as one page: its pictures are inside, it loads nothing."""

import base64
import html
from collections.abc import Sequence

from lopt.evaluation.pictures import overview_figure, svg, task_figure
from lopt.evaluation.results import (
    ContenderResult,
    Results,
    Settings,
    SpeedUp,
    TaskResult,
    Tuning,
    earned,
    rivals,
    times,
)

MEANINGS = {
    "speed-up": "T over the budget with which the learned optimizer equals what the "
    "best baseline reaches with up to T steps; below 1 the budget with which the best "
    "baseline equals the learned optimizer at T, over T. Budgets are run lengths that "
    "each schedule was told; between them losses are interpolated in logs. ≥ and ≤: "
    "the crossing lies outside the budgets that were run.",
    "80 %, 95 %": "paired bootstrap intervals over the reporting seeds: both sides are "
    "resampled together, because run for run they share initial weights and "
    "minibatches. The uncertainty of tuning is not in them.",
    "over NAME": "the speed-up against that one alone.",
    "in seconds": "the speed-up in time on this machine: in steps, times the time of a "
    "step of the best baseline over that of the learned optimizer.",
    "loss": "test loss at the step of the lowest valid loss, averaged over seeds, with "
    "the full budget T. A run that met a loss that is not finite is charged with the "
    "task's bound.",
    "accuracy": "on the test split, at the same step.",
    "to 1.1×, to 1.25×": "steps within the run of length T until the mean test loss is "
    "1.1 and 1.25 times the lowest result of all; –: never.",
    "ms/step": "milliseconds that one step of one run takes, minibatch and gradient "
    "included, while {lanes} runs share the device.",
    "diverged": "reporting runs that met a loss that is not finite.",
    "tuned": "learning rate, weight decay and schedule that the search chose for T, on "
    "the valid split and on other seeds; factors for `schedule`. * : at the edge of all "
    "that was tried.",
}


def html_report(results: Results) -> str:
    """The whole report as one page that needs nothing else."""
    name = html.escape(results.optimizer)
    sections = "\n".join(_task_section(task) for task in results.tasks)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{name}: evaluation</title>
<style>{_STYLE}</style>
<h1>{name}: evaluation</h1>
<p class="lead">{_headline(results)}</p>
{_image(svg(overview_figure(results)), "speed-ups of every task")}
{_overview(results)}
{_controls(results)}
{sections}
<h2>What the columns mean</h2>
<dl>{_meanings(results.settings)}</dl>
<h2>How it was measured</h2>
<p>{_method(results)}</p>
</html>
"""


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto;
  padding: 0 1rem; color: #222; background: #fff }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem }
.lead { font-size: 1.15rem } img { max-width: 100% }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd;
  white-space: nowrap }
th:first-child, td:first-child { text-align: left }
tr.learned td { font-weight: 600 } tr.control td { color: #666 }
dt { font-weight: 600 } dd { margin: 0 0 .6rem 1.5rem }
"""


def _headline(results: Results) -> str:
    speed_up = results.speed_up
    names = rivals(results.tasks[0].kinds)
    count = len(results.tasks)
    tasks = "one task" if count == 1 else f"{count} tasks"
    over = ", ".join(f"{results.speed_up_over[n]}× over {n}" for n in names)
    return html.escape(
        f"Median speed-up over the best baseline of each of {tasks}: {speed_up}× "
        f"(80 % interval {speed_up.range80}); {over}."
    )


def _overview(results: Results) -> str:
    """Speed-ups over the baselines; over the controls where there is nothing else."""
    names = rivals(results.tasks[0].kinds)
    header = ["task", "T", "speed-up", "80 %", "95 %", *map("over {}".format, names)]
    rows = []
    for task in results.tasks:
        over = [task.speed_up_over[name] for name in names]
        cells = [task.name, task.num_steps, *_speed_up_cells(task.speed_up), *over]
        rows.append([*cells, times(task.speed_up_seconds)])
    over = [results.speed_up_over[name] for name in names]
    rows.append(["median", "", *_speed_up_cells(results.speed_up), *over, ""])
    return _table([*header, "in seconds"], rows)


def _controls(results: Results) -> str:
    """Speed-ups over the controls, and what they are owed to; nothing without any."""
    kinds = results.tasks[0].kinds
    names = [name for name, kind in kinds.items() if kind == "control"]
    if not names:
        return ""
    header = ["task", *(title for n in names for title in (f"over {n}", "80 %"))]
    everything = [(task.name, task.speed_up_over) for task in results.tasks]
    everything.append(("median", results.speed_up_over))
    rows = [
        [task, *(cell for n in names for cell in (over[n], over[n].range80))]
        for task, over in everything
    ]
    items = "\n".join(f"<li>{html.escape(line)}.</li>" for line in earned(results))
    title = "<h2>What learning and adapting added</h2>"
    return f"{title}\n<ul>{items}</ul>\n{_table(header, rows)}"


def _task_section(task: TaskResult) -> str:
    header = ["", "loss", "accuracy", "to 1.1×", "to 1.25×", "ms/step", "diverged"]
    rows = [_contender_cells(contender) for contender in task.contenders]
    kinds = [contender.kind for contender in task.contenders]
    return "\n".join(
        [
            f"<h2>{html.escape(task.name)}</h2>",
            f"<p>{html.escape(task.winner)}.</p>",
            _image(svg(task_figure(task)), f"curves and budgets of {task.name}"),
            _table([*header, "tuned"], rows, kinds),
        ]
    )


def _contender_cells(contender: ContenderResult) -> list[object]:
    last = contender.budgets[-1]
    return [
        contender.name,
        f"{last.loss:.4g}",
        "–" if last.accuracy is None else f"{last.accuracy:.2%}",
        *(
            "–" if s is None else s
            for s in (contender.steps_to_110, contender.steps_to_125)
        ),
        f"{contender.milliseconds_per_step:.3g}",
        last.num_diverged,
        _tuned(last.tuning),
    ]


def _tuned(tuning: Tuning | None) -> str:
    if tuning is None:
        return "not tuned"
    edge = " *" if tuning.at_edge else ""
    values = f"{tuning.learning_rate:.3g}, {tuning.weight_decay:.3g}"
    return f"{values}, {tuning.schedule}{edge}"


def _meanings(settings: Settings) -> str:
    items = []
    for column, meaning in MEANINGS.items():
        meaning = html.escape(meaning.format(lanes=settings.lanes))
        items.append(f"<dt>{html.escape(column)}</dt><dd>{meaning}</dd>")
    return "\n".join(items)


def _method(results: Results) -> str:
    s = results.settings
    few = ""
    if s.seeds < 10:
        few = " With fewer than 10 reporting seeds the intervals are not to be trusted."
    budgets = ", ".join(f"{budget:g}" for budget in s.budgets)
    return html.escape(
        f"Every optimizer ran with budgets of {budgets} times T, in the same inner "
        f"loop. Each baseline was tuned anew for each budget: {s.trials} points of "
        "learning rate × weight decay × schedule (and more beyond an edge of the grid) "
        f"on {s.tuning_seeds} seeds, by the lowest loss on the valid split. All ran on "
        f"{s.seeds} other seeds, paired, and are reported on the test split, which "
        f"nothing was tuned on. Seed {s.seed}; {s.device}; {results.seconds:.0f} s in "
        f"all.{few}"
    )


def _speed_up_cells(speed_up: SpeedUp) -> list[str]:
    return [
        str(speed_up),
        speed_up.range80,
        speed_up.range95,
    ]


def _table(
    header: Sequence[object],
    rows: Sequence[Sequence[object]],
    kinds: Sequence[str] | None = None,
) -> str:
    def line(cells: Sequence[object], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells)

    kinds = kinds or [""] * len(rows)
    body = "\n".join(
        f'<tr class="{kind}">{line(row, "td")}</tr>'
        for kind, row in zip(kinds, rows, strict=True)
    )
    head = f"<tr>{line(header, 'th')}</tr>"
    return f'<div class="wide"><table>\n{head}\n{body}\n</table></div>'


def _image(svg: str, alt: str) -> str:
    # As an image, not inline: the ids of several inline pictures would collide.
    data = base64.b64encode(svg.encode()).decode()
    alt = html.escape(alt, quote=True)
    return f'<p><img alt="{alt}" src="data:image/svg+xml;base64,{data}"></p>'
