"""Work on the pieces of a stack of tensors, each of them by one thread.

What a thread does to a piece stays in its cache. Left to torch, all threads would share
each of many small operations, and wait for each other after every one.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from lopt.torch import features
from lopt.torch.features import Piece

T = TypeVar("T")

MAX_THREADS = 6
"""More would take more memory, and wait for Python."""


def over_pieces(x: Tensor, begin: Callable[[], Callable[[Piece], T]]) -> list[T]:
    """What is made of each piece of `x`, in their order.

    Args:
      x: on a CPU, as many threads as torch uses, at most 6, work on its pieces.
      begin: called by each of them, makes the function that it calls with pieces; what
        is local to `begin` is that thread's own.
    """
    pieces = list(features.pieces(x))
    available = torch.get_num_threads() if x.device.type == "cpu" else 1
    available = min(available, MAX_THREADS)
    count = max(1, min(len(pieces), available))

    @torch.no_grad()
    def work(first: int) -> list[T]:
        function = begin()
        return [function(piece) for piece in pieces[first::count]]

    if count == 1:
        return work(0)
    parts = list(_threads(available, os.getpid()).map(work, range(count)))
    return [parts[i % count][i // count] for i in range(len(pieces))]


@cache
def _threads(count: int, process: int) -> ThreadPoolExecutor:
    """Threads whose operations are each done by one thread."""
    del process  # one that was forked has none of its parent's threads
    start, before = threading.Barrier(count), torch.get_num_threads()

    def alone() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread's number is settled when it first asks
        start.wait()

    pool = ThreadPoolExecutor(count, "lopt-pieces", initializer=alone)
    list(pool.map(lambda _: None, range(count)))
    # They have also changed what threads that are yet to come, of others, begin with.
    torch.set_num_threads(before)
    return pool
