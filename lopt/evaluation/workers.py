"""Jobs side by side, in threads: XLA lets go of the interpreter while it works."""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")

Notify = Callable[[str, int], None]
"""`(text, units of work just done)`, for a job to call."""


class _Stopped(Exception):
    """Ends a job whose caller has gone."""


def run_jobs(
    jobs: Sequence[Callable[[Any, Notify], Result]],
    resources: Sequence[Any],
    on_notice: Notify,
) -> list[Result]:
    """Results of the jobs, in the order in which they finished.

    Args:
      jobs: each is called with a resource and a function to notify its caller by.
      resources: as many jobs run at a time; each has one of these for itself.
      on_notice: called in the caller's thread with what the jobs notify.

    Raises:
      Exception: what a job has raised, or the caller's own interrupt. Jobs that have
        not started are dropped, the others end at their next notice.
    """
    events: queue.SimpleQueue[Future | tuple[str, int]] = queue.SimpleQueue()
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for resource in resources:
        free.put(resource)
    stopped = threading.Event()

    def notify(text: str, units: int) -> None:
        if stopped.is_set():
            raise _Stopped
        events.put((text, units))

    def run(job: Callable[[Any, Notify], Result]) -> Result:
        resource = free.get()
        try:
            return job(resource, notify)
        finally:
            free.put(resource)

    results: list[Result] = []
    pool = ThreadPoolExecutor(len(resources))
    try:
        for job in jobs:
            pool.submit(run, job).add_done_callback(events.put)
        while len(results) < len(jobs):
            event = events.get()
            if isinstance(event, Future):
                results.append(event.result())
            else:
                on_notice(*event)
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
    return results
