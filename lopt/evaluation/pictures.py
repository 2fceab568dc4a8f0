"""Pictures of an evaluation, drawn without a display and without global state."""

import io
import itertools
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from lopt.evaluation.results import (
    ContenderResult,
    Results,
    SpeedUp,
    TaskResult,
    rivals,
)

OURS = "#c1272d"
CONTROLS = ("#7f7f7f", "#303030")
COLORS = ("#1f5fa8", "#2a9d5c", "#8d5fb0", "#d98a1f", "#3aa6b9", "#8a6d3b")
"""Of baselines, in their order; told apart by name too, at the end of each line."""

_SPEED_TICKS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32)


def color_of(contenders: Sequence[ContenderResult]) -> dict[str, str]:
    """A color for each contender."""
    kinds = {"learned": (OURS,), "control": CONTROLS, "baseline": COLORS}
    rest = {kind: itertools.cycle(colors) for kind, colors in kinds.items()}
    return {contender.name: next(rest[contender.kind]) for contender in contenders}


def task_figure(task: TaskResult) -> Figure:
    """Learning curves, and results against budgets, side by side."""
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    colors = color_of(task.contenders)
    # Ours last, on top.
    for contender in reversed(task.contenders):
        _draw_curve(left, contender, colors[contender.name])
        _draw_budgets(right, contender, colors[contender.name])
    left.set(
        title=f"One run of {task.num_steps} steps",
        xlabel="step",
        ylabel="test loss: median, 10–90 % of seeds",
    )
    right.set(
        title="Budget for budget: each point is a run of its own",
        xlabel="steps the schedule was given",
        ylabel="test loss at the lowest valid loss, mean",
    )
    left.set_yscale("log")
    left.set_ylim(*_curve_limits(task))
    left.set_xlim(0, task.num_steps)
    _plain_losses(left)
    _budget_axes(right, task)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(
        handles[::-1],
        labels[::-1],
        loc="outside right center",
        frameon=False,
    )
    return _tidied(figure)


def overview_figure(results: Results) -> Figure:
    """Speed-ups on all tasks, against all and each baseline, with intervals."""
    rows = len(results.tasks) + 1
    figure = Figure(figsize=(8.5, 1.2 + 0.45 * rows), layout="constrained")
    axes = figure.subplots()
    colors = color_of(results.tasks[0].contenders)
    for row, (name, over) in enumerate(_rows(results)):
        everyone = {"all": over[0], **over[1]}
        offsets = [0.3 * (i / max(len(everyone) - 1, 1) - 0.5) for i in range(9)]
        for (label, speed_up), offset in zip(everyone.items(), offsets, strict=False):
            _draw_speed_up(axes, speed_up, row + offset, label, colors)
        del name
    axes.set_yticks(range(rows), [name for name, _ in _rows(results)])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="0.3", linewidth=1)
    axes.xaxis.set_major_locator(FixedLocator(_SPEED_TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{_ratio(x)}×"))
    axes.set_xlabel("times fewer steps; lines are 80 % intervals")
    axes.grid(axis="x", color="0.9")
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
        unique.values(), unique.keys(), loc="outside right center", frameon=False
    )
    return _tidied(figure)


def svg(figure: Figure) -> str:
    """The figure as an SVG document, the same bytes every time."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _rows(results: Results) -> list[tuple[str, tuple[SpeedUp, dict[str, SpeedUp]]]]:
    rows = [(t.name, (t.speed_up, t.speed_up_over)) for t in results.tasks]
    return [*rows, ("median", (results.speed_up, results.speed_up_over))]


def _draw_speed_up(axes: Axes, speed_up: SpeedUp, y, label, colors) -> None:
    color = "black" if label == "all" else colors[label]
    marker = {"exact": "o", "at least": ">", "at most": "<"}[speed_up.bound]
    axes.plot(speed_up.interval80, (y, y), color=color, linewidth=1.5)
    name = "best baseline" if label == "all" else f"over {label}"
    size = 8 if label == "all" else 5
    axes.plot(speed_up.value, y, marker, color=color, markersize=size, label=name, ls="")


def _draw_curve(axes: Axes, contender: ContenderResult, color: str) -> None:
    curve, control = contender.curve, contender.kind == "control"
    axes.fill_between(
        curve.steps, curve.test_low, curve.test_high, color=color, alpha=0.13, lw=0
    )
    axes.plot(
        curve.steps,
        curve.test_median,
        color=color,
        linewidth=2.2 if contender.kind == "learned" else 1.3,
        linestyle="--" if control else "-",
    )


def _draw_budgets(axes: Axes, contender: ContenderResult, color: str) -> None:
    axes.plot(
        [budget.num_steps for budget in contender.budgets],
        [budget.loss for budget in contender.budgets],
        color=color,
        marker="o",
        linewidth=2.2 if contender.kind == "learned" else 1.3,
        linestyle="--" if contender.kind == "control" else "-",
        label=contender.name,
    )


def _curve_limits(task: TaskResult) -> tuple[float, float]:
    """From just below the lowest line to the loss of the start, spikes left out."""
    lowest = min(min(c.curve.test_low) for c in task.contenders)
    highest = max(max(c.curve.test_median) for c in task.contenders)
    floor = max(lowest, 1e-8)
    return 0.8 * floor, 1.2 * max(highest, floor)


def _budget_axes(axes: Axes, task: TaskResult) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    lengths = [budget.num_steps for budget in task.contenders[0].budgets]
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    names = rivals(task.kinds)
    against = [c for c in task.contenders if c.name in names]
    target = min(min(budget.loss for budget in c.budgets) for c in against)
    axes.axhline(target, color="0.5", linewidth=0.9, linestyle=":")
    _plain_losses(axes)


def _plain_losses(axes: Axes) -> None:
    """0.1 rather than 10⁻¹; in between only where there is room."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.3g}"))
    low, high = axes.get_ylim()
    if high / low < 10:
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda y, _: f"{y:.2g}"))
    else:
        axes.yaxis.set_minor_formatter(NullFormatter())


def _ratio(value: float) -> str:
    return f"{value:.0f}" if value >= 1 else f"1/{1 / value:.0f}"


def _tidied(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure
