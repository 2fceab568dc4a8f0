"""How long work says how far it is: a bar on a terminal, else a line now and then.

The bars are what `lopt.run.Progress` and `lopt.evaluation.comparison` ask for.
"""

import sys
import time
from typing import Any, Self

from lopt.cli import console

SECONDS_BETWEEN_LINES = 10.0


class Bar:
    """A bar on stderr, with a text; where stderr is no terminal, plain lines."""

    def __init__(self) -> None:
        self._drawn = None
        self._last_line = float("-inf")

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._drawn = _rich_bar()
            self._drawn.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._drawn is not None:
            self._drawn.stop()

    def update(self, text: str, fraction: float, *, say: bool = False) -> None:
        """Moves the bar.

        Args:
          text: what is being done.
          fraction: how much of it is done, 0 … 1.
          say: whether a plain line is due, however recent the last one.
        """
        if self._drawn is not None:
            self._drawn.update(self._drawn.task_ids[0], completed=fraction)
            self._drawn.update(self._drawn.task_ids[0], description=text)
            return
        now = time.monotonic()
        if say or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            console.say(f"{fraction:4.0%} {text}")

    def note(self, text: str) -> None:
        """A line that stays, above the bar."""
        if self._drawn is not None:
            self._drawn.console.print(text, markup=False, highlight=False)
        else:
            console.say(text)


class TrainingBar(Bar):
    """Outer step, meta-loss, inner steps per second, and the time that is left."""

    def __init__(self) -> None:
        super().__init__()
        self._started: float | None = None
        self._inner_steps = 0
        self._best, self._is_last = "", False

    def compiled(self, done: int, total: int) -> None:
        """`done` of `total` programs are compiled."""
        self.update(f"compiling: {done} of {total} programs are ready", 0.0, say=True)

    def stepped(self, metrics: dict[str, Any], outer_steps: int) -> None:
        """An outer step is finished; `metrics` is its line of metrics.jsonl."""
        step, loss = metrics["step"], metrics["loss"]
        text = f"step {step} of {outer_steps}, meta-loss "
        text += "not finite" if loss is None else f"{loss:.4f}"
        if speed := self._speed(metrics["inner_steps"]):
            text += f", {speed:,.0f} inner steps/s"
        text += self._best
        self._is_last = step == outer_steps
        self.update(text, step / outer_steps, say=step == outer_steps)

    def selected(self, selection: dict[str, Any]) -> None:
        """A selection is finished; `selection` is its line of selection.jsonl."""
        best = selection["selected"]
        kind = "average at step" if best["weights"] == "average" else "step"
        what = f"{kind} {best['step']}, score {best['score']:.4f}"
        self._best = f", best: {what}"
        if self._is_last:
            self.note(f"selected {what}")

    def _speed(self, inner_steps: int) -> float | None:
        """Inner steps per second since the first outer step, None at that one."""
        now = time.monotonic()
        if self._started is None:
            self._started = now
            return None
        self._inner_steps += inner_steps
        return self._inner_steps / max(now - self._started, 1e-9)


def _rich_bar():
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    drawn = Progress(
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(file=sys.stderr),
    )
    drawn.add_task("starting", total=1.0)
    return drawn
