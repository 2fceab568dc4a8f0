"""What an evaluation found: frozen dataclasses of numbers, and `results.json`.

`to_dict` gives the content of `results.json`: the fields of `Results` below, nested as
they are, tuples as lists, numbers that do not exist as null, and before them `format`
("lopt-evaluation") and `format_version` (1). In short:

    speed_up                  median over tasks, against the best baseline of each; the
                              best control where only controls were compared with
      .value                  above 1: fewer steps are needed for the same result
      .bound                  "exact"; "at least" or "at most" where it is censored
      .interval80, .interval95  paired bootstrap intervals [low, high]
    speed_up_over.NAME        the same against one baseline or control alone
    tasks[].name, .num_steps, .speed_up, .speed_up_over, .speed_up_seconds,
            .best_baseline, .winner (in words)
    tasks[].contenders[]      the learned optimizer first, then baselines and controls
      .name, .kind            "learned", "baseline" or "control"
      .milliseconds_per_step  of one run, while `settings.lanes` run side by side
      .steps_to_110, .steps_to_125  steps within the longest run until the mean test
                              loss is 1.1 and 1.25 times the best result; null: never
      .budgets[]              one for each run length
        .num_steps, .loss, .accuracy (test, mean over seeds), .losses (one a seed),
        .num_diverged, .tuning (null for an optimizer that is not tuned)
      .curve                  over the longest run: steps, and over seeds the median of
                              train, valid and test loss and quantiles of test loss
    settings                  trials, seeds, budgets, ...; seconds: the whole evaluation
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

FORMAT = "lopt-evaluation"
FORMAT_VERSION = 1

Bound = Literal["exact", "at least", "at most"]
Kind = Literal["learned", "baseline", "control"]
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """How many times fewer steps; statistics.py defines it."""

    value: float
    bound: Bound
    interval80: Interval
    interval95: Interval

    def __str__(self) -> str:
        """For tables: "≥ 8.0", "1.9"."""
        sign = {"exact": "", "at least": "≥ ", "at most": "≤ "}[self.bound]
        return sign + times(self.value)

    @property
    def range80(self) -> str:
        """The 80 % interval for tables: "1.8–2.2"."""
        return "–".join(map(times, self.interval80))

    @property
    def range95(self) -> str:
        """The 95 % interval likewise."""
        return "–".join(map(times, self.interval95))


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a baseline was tuned for one budget, on `valid` and other seeds."""

    learning_rate: float
    weight_decay: float
    schedule: Literal["cosine", "constant", "own"]
    valid_loss: float  # lowest of the run, averaged over tuning seeds
    num_points: int  # trials, and extensions of the grid
    at_edge: bool  # whether the best point is at the edge of all that was tried


@dataclass(frozen=True, kw_only=True)
class BudgetResult:
    """Runs of one length, one for each reporting seed."""

    num_steps: int
    loss: float  # test loss at the lowest valid loss, averaged over seeds
    losses: tuple[float, ...]
    accuracy: float | None
    num_diverged: int
    tuning: Tuning | None


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The longest run, over seeds."""

    steps: tuple[int, ...]
    train_median: tuple[float, ...]
    valid_median: tuple[float, ...]
    test_median: tuple[float, ...]
    test_low: tuple[float, ...]  # 10 % quantile
    test_high: tuple[float, ...]  # 90 % quantile


@dataclass(frozen=True, kw_only=True)
class ContenderResult:
    """One optimizer on one task."""

    name: str
    kind: Kind
    budgets: tuple[BudgetResult, ...]
    milliseconds_per_step: float
    steps_to_110: int | None
    steps_to_125: int | None
    curve: Curve


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """Every contender on one task; the learned optimizer is the first."""

    name: str
    num_steps: int
    speed_up: SpeedUp
    speed_up_over: dict[str, SpeedUp]
    speed_up_seconds: float
    best_baseline: str
    winner: str
    contenders: tuple[ContenderResult, ...]

    @property
    def kinds(self) -> dict[str, Kind]:
        """The contenders' kinds by name."""
        return {contender.name: contender.kind for contender in self.contenders}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the evaluation was asked for, and where it ran."""

    suite: str
    baselines: tuple[str, ...]
    trials: int
    seeds: int
    tuning_seeds: int
    budgets: tuple[float, ...]
    seed: int
    lanes: int
    device: str


@dataclass(frozen=True, kw_only=True)
class Results:
    """An evaluation."""

    optimizer: str
    speed_up: SpeedUp
    speed_up_over: dict[str, SpeedUp]
    tasks: tuple[TaskResult, ...]
    settings: Settings
    seconds: float


def rivals(kinds: Mapping[str, Kind]) -> list[str]:
    """Whom "all" means: the baselines or, where there are none, the controls.

    Args:
      kinds: of contenders, by name.
    """
    baselines = [name for name, kind in kinds.items() if kind == "baseline"]
    return baselines or [name for name, kind in kinds.items() if kind == "control"]


EARNED = {
    "static": ("learning", "the rule that `layerwise` starts from, tuned"),
    "schedule": ("adapting", "its own mean decisions, frozen and tuned"),
}
"""By control: what a speed-up over it is owed to, and what the control is."""


def earned(results: Results) -> list[str]:
    """What learning and adapting are worth, a line for each control."""
    return [
        f"{cause} is worth {results.speed_up_over[name]}× over `{name}`, {what} "
        f"(80 %: {results.speed_up_over[name].range80})"
        for name, (cause, what) in EARNED.items()
        if name in results.speed_up_over
    ]


def times(factor: float) -> str:
    """A speed-up for tables: two digits, "1.9", "0.53", "12"."""
    decimals = 0 if factor >= 10 else 1 if factor >= 1 else 2
    return f"{factor:.{decimals}f}"


def to_dict(results: Results) -> dict[str, Any]:
    """The content of `results.json`."""
    header = {"format": FORMAT, "format_version": FORMAT_VERSION}
    return {**header, **_plain(asdict(results))}


def _plain(value: Any) -> Any:
    """JSON has neither tuples nor NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
