"""SIGINT and SIGTERM end a run in good order."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lopt.errors import LoptError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(LoptError):
    """A signal ended the run; `exit_code` is what a shell expects, 128 + its number."""

    def __init__(self, signum: int, what: str, *, hint: str):
        super().__init__(f"stopped by {signal.Signals(signum).name} {what}", hint=hint)
        self.exit_code = 128 + signum


@contextmanager
def handling(handle: Callable[[int], None]) -> Iterator[None]:
    """Calls `handle(signum)` on SIGINT and SIGTERM; puts the old handlers back.

    Python lets only the main thread do that; in another one, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, lambda n, _: handle(n)) for s in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class StopRequest:
    """Remembers the first signal; a second one does not wait for the step to end."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __call__(self, signum: int) -> None:
        """Takes note of a signal."""
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
