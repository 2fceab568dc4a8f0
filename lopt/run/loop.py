"""The loop of outer steps, and who is told of them.

Outer step t+1 is dispatched before the metrics of step t are written, so that the device
does not wait for the host; a thread fetches them, and looks at the clock, when step t
ends, because dispatching may block until then or longer. Before a snapshot of step t is
saved, the metrics up to t are passed on: a run that is resumed from it lacks none.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import jax

from lopt.trainer import Metrics, Trainer, TrainState


@runtime_checkable
class Progress(Protocol):
    """Who is told how a run is going; the command line draws a bar of it."""

    def note(self, text: str) -> None:
        """A line about something that the user should know."""
        ...

    def compiled(self, done: int, total: int) -> None:
        """`done` of `total` programs are compiled; first called with done = 0."""
        ...

    def stepped(self, metrics: dict[str, Any], outer_steps: int) -> None:
        """An outer step is finished; `metrics` is its line of metrics.jsonl."""
        ...

    def selected(self, selection: dict[str, Any]) -> None:
        """A selection is finished; `selection` is its line of selection.jsonl."""
        ...


class Silent:
    """A `Progress` that says nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def compiled(self, done: int, total: int) -> None:
        """Nothing."""

    def stepped(self, metrics: dict[str, Any], outer_steps: int) -> None:
        """Nothing."""

    def selected(self, selection: dict[str, Any]) -> None:
        """Nothing."""


Ended = tuple[Metrics, float]
"""A step's metrics, on the host, and when they were there by `time.perf_counter`."""


class Log:
    """Times steps, and passes one line of metrics for each on."""

    def __init__(
        self,
        trainer: Trainer,
        outer_steps: int,
        progress: Progress,
        write: Callable[[dict[str, Any]], None],
    ):
        self.trainer, self.outer_steps = trainer, outer_steps
        self.progress, self.write = progress, write
        self.restart_clock()

    def restart_clock(self) -> None:
        """What has passed until now belongs to no step."""
        self.clock = time.perf_counter()

    def __call__(self, step: int, ended: Future[Ended]) -> None:
        """Waits for a step to end and tells its metrics."""
        before = self.clock
        values, self.clock = ended.result()
        seconds = self.clock - before
        inner_steps = int(values.num_steps)
        losses = zip(self.trainer.task_names, values.task_losses, strict=True)
        took_part = zip(losses, values.stepped, strict=True)
        line = {
            "step": step,
            "loss": float(values.loss),
            "task_losses": {n: float(loss) for (n, loss), took in took_part if took},
            "grad_norm": float(values.grad_norm),
            "num_diverged": int(values.num_diverged),
            "skipped": bool(values.skipped),
            "inner_steps": inner_steps,
            "seconds": seconds,
            "inner_steps_per_second": inner_steps / seconds,
        }
        self.write(line)
        self.progress.stepped(line, self.outer_steps)


def loop(
    step_fn: Callable[[TrainState, int], tuple[TrainState, Metrics]],
    state: TrainState,
    outer_steps: int,
    log: Log,
    due: Callable[[int], bool],
    select: Callable[[int, TrainState], TrainState],
    save: Callable[[int, TrainState], None],
) -> TrainState:
    """Outer steps to the end; selects and saves where due and after the last one.

    `step_fn` gets the number of steps that are done, too: asking the state would wait.
    """
    unread: Future[Ended] | None = None
    with ThreadPoolExecutor(1) as fetcher:
        for step in range(int(state.step) + 1, outer_steps + 1):
            state, metrics = step_fn(state, step - 1)
            if unread is not None:
                log(step - 1, unread)
            unread = fetcher.submit(_fetch, metrics)
            if due(step) or step == outer_steps:
                log(step, unread)
                unread = None
                state = select(step, state)
                save(step, state)
                log.restart_clock()
    return state


def _fetch(metrics: Metrics) -> Ended:
    return jax.device_get(metrics), time.perf_counter()
