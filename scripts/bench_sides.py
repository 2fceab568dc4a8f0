"""Processes that are measured in turns: one works while the others rest.

Standard library only: the other side may be a program that knows nothing of lopt. A side
is a script that ends in `serve(...)`; who measures starts it as a `Side`.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

Call = Callable[[], int]
"""Does some of the work, waits for its end, and returns how many inner steps it took."""

REPLY = "reply: "
CLOCKS = ("wall", "cpu")
"""Seconds that pass, or seconds of all the process's threads: for a busy machine."""


def serve(setups: Mapping[str, Callable[[], Call]]) -> None:
    """Obeys lines "NAME<tab>COUNT" until there are none: so many calls of that name.

    What the first line of a name takes includes its set-up.
    """
    print(REPLY + json.dumps(list(setups)), flush=True)
    calls: dict[str, Call] = {}
    for line in sys.stdin:
        name, count = line.rstrip("\n").split("\t")
        wall, cpu = time.perf_counter(), time.process_time()
        if name not in calls:
            calls[name] = setups[name]()
        steps = sum(calls[name]() for _ in range(int(count)))
        spent = time.perf_counter() - wall, time.process_time() - cpu
        print(REPLY + json.dumps([spent, steps]), flush=True)


class Side:
    """A process that serves."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] = {}):
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=os.environ | environment
        )
        self.names: list[str] = self._reply()

    def _reply(self):
        for line in self._process.stdout:
            if line.startswith(REPLY):
                return json.loads(line.removeprefix(REPLY))
        raise SystemExit(f"{' '.join(self._process.args)}: ended, see above")

    def run(self, name: str, count: int) -> tuple[dict[str, float], int]:
        """Seconds by each clock, and inner steps, of so many calls."""
        self._process.stdin.write(f"{name}\t{count}\n")
        self._process.stdin.flush()
        spent, steps = self._reply()
        return dict(zip(CLOCKS, spent, strict=True)), steps

    def end(self) -> None:
        """Waits for the end of the process."""
        self._process.stdin.close()
        self._process.wait()


def in_turns(
    sides: Mapping[str, Side], *, turns: int, seconds: float, clock: str
) -> dict[str, dict[str, dict]]:
    """For each name and side its first call's seconds, and inner steps per second.

    Args:
      sides: who takes part.
      turns: how often each name of each side has its turn; the median counts.
      seconds: how long about a turn lasts; one call at least.
      clock: one of `CLOCKS`.
    """
    results: dict[str, dict[str, dict]] = {}
    counts = {}
    for side, name in [(s, name) for s in sides for name in sides[s].names]:
        first, _ = sides[side].run(name, 1)
        once, _ = sides[side].run(name, 1)
        counts[side, name] = max(1, round(seconds / once["wall"]))
        result = {"first_call_seconds": round(first[clock], 2), "turns": []}
        results.setdefault(name, {})[side] = result
    for _, (name, by_side) in itertools.product(range(turns), results.items()):
        for side, result in by_side.items():
            spent, steps = sides[side].run(name, counts[side, name])
            result["turns"].append(round(steps / spent[clock]))
    for result in (r for by_side in results.values() for r in by_side.values()):
        result["inner_steps_per_second"] = statistics.median(result["turns"])
    return results
