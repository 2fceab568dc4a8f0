"""The search for a baseline's hyperparameters, on a lattice and within a stated number
of trials: pure arithmetic, told the score of each point by a function.

A point is (learning rate, weight decay, schedule). Rates lie on a grid of octaves
around a center, decays on a short list. Half of the trials are a coarse spread around
the center, rates in steps of two octaves; the other half, in two rounds, go to the
nearest untried neighbors of the best point so far, inside the grid or beyond it. If the
best point then still lies at the edge of what was tried, the grid is extended beyond
that edge, a bounded number of times. Last, the best few are scored once more, on other
seeds, because the best of many noisy scores is lucky. Extensions and finals come on top
of the trials, in the baseline's favor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

MAX_EXTENSIONS = 3
"""How often an optimum at the edge may extend the grid."""

NUM_FINALISTS = 3
"""How many points are scored twice."""

_COARSE_COST = (0.25, 0.6, 1.1)
_NEAR_COST = (0.6, 0.7, 1.0)
"""How far apart two points count: per octave of rate, per decay, another schedule."""


class Point(NamedTuple):
    """A place on the lattice."""

    rate: int  # octaves from the center
    decay: int  # position in the list of decays
    constant: bool  # whether the rate is constant after the warm-up


class Hyperparameters(NamedTuple):
    """The values at a point."""

    learning_rate: float
    weight_decay: float
    constant: bool


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Where a baseline is tuned.

    Attributes:
      learning_rate: the center of the grid of rates.
      decays: increasing; the grid is extended upwards into the ones after
        `num_decays`.
      num_decays: how many of them the coarse spread may use.
      center_decay: position of the decay that is tried first.
      schedules: values of `constant` that are tried.
    """

    learning_rate: float
    decays: tuple[float, ...] = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    num_decays: int = 5
    center_decay: int = 2
    schedules: tuple[bool, ...] = (False, True)

    @property
    def center(self) -> Point:
        """The point that is tried first."""
        return Point(0, self.center_decay, self.schedules[0])

    def values(self, point: Point) -> Hyperparameters:
        """The hyperparameters at a point."""
        rate = self.learning_rate * 2.0**point.rate
        return Hyperparameters(rate, self.decays[point.decay], point.constant)


class Tuned(NamedTuple):
    """The outcome of a search."""

    point: Point
    score: float  # its mean over the search and the final
    scores: dict[Point, float]  # of every point that was tried, in the search
    num_extensions: int
    at_edge: bool  # whether the best point is still at the edge of what was tried


Score = Callable[[Sequence[Point]], Sequence[float]]
"""Scores of several points at once, lower is better, never NaN."""


def search(
    space: SearchSpace,
    trials: int,
    score: Score,
    final_score: Score,
    *,
    center: Point | None = None,
) -> Tuned:
    """The best of `trials` points, and of extensions beyond the edge.

    Args:
      space: where to look.
      trials: number of points, at least 1; extensions are not counted.
      score: the function that is minimized.
      final_score: the same on other seeds.
      center: where the coarse spread is centered; default: the space's own center.
    """
    center = space.center if center is None else center
    scores: dict[Point, float] = {}

    def try_points(points: Sequence[Point]) -> None:
        scores.update(zip(points, score(points), strict=True))

    coarse = (trials + 1) // 2
    try_points(_coarse(space, center, coarse))
    rest = trials - coarse
    for count in ((rest + 1) // 2, rest // 2):
        if count:
            try_points(_neighbors(space, _best(scores), scores)[:count])
    extensions = 0
    while extensions < MAX_EXTENSIONS:
        beyond = _beyond(space, _best(scores), scores)
        if not beyond:
            break
        try_points(beyond)
        extensions += 1
    finalists = sorted(scores, key=scores.__getitem__)[:NUM_FINALISTS]
    again = zip(finalists, final_score(finalists), strict=True)
    means = {point: (scores[point] + other) / 2 for point, other in again}
    best = _best(means)
    at_edge = bool(_beyond(space, best, scores))
    return Tuned(best, means[best], scores, extensions, at_edge)


def _best(scores: dict[Point, float]) -> Point:
    # Ties, such as two points that both diverge, go to the one tried first.
    return min(scores, key=scores.__getitem__)


def _coarse(space: SearchSpace, center: Point, count: int) -> list[Point]:
    reach = 4
    while True:
        rates = range(center.rate - reach, center.rate + reach + 1, 2)
        decays = range(max(space.num_decays, center.decay + 1))
        points = [Point(*p) for p in product(rates, decays, space.schedules)]
        if len(points) >= count:
            return _nearest(points, center, _COARSE_COST)[:count]
        reach += 2


def _neighbors(space: SearchSpace, best: Point, tried: dict[Point, float]) -> list[Point]:
    reach = 2 + len(tried)
    rates = range(best.rate - reach, best.rate + reach + 1)
    points = product(rates, range(len(space.decays)), space.schedules)
    fresh = [Point(*p) for p in points if Point(*p) not in tried]
    return _nearest(fresh, best, _NEAR_COST)


def _nearest(points: list[Point], center: Point, cost: tuple[float, ...]):
    rate_cost, decay_cost, schedule_cost = cost

    def distance(point: Point) -> float:
        return (
            rate_cost * abs(point.rate - center.rate)
            + decay_cost * abs(point.decay - center.decay)
            + schedule_cost * (point.constant != center.constant)
        )

    return sorted(points, key=distance)


def _beyond(space: SearchSpace, best: Point, tried: dict[Point, float]) -> list[Point]:
    """Untried points next to the best one, past an edge of the grid that it lies on."""
    rates = [point.rate for point in tried]
    decays = [point.decay for point in tried]
    beyond = []
    if best.rate == max(rates):
        beyond += [best._replace(rate=best.rate + step) for step in (1, 2)]
    if best.rate == min(rates):
        beyond += [best._replace(rate=best.rate - step) for step in (1, 2)]
    if best.decay == max(decays) and best.decay + 1 < len(space.decays):
        beyond.append(best._replace(decay=best.decay + 1))
    if best.decay == min(decays) and best.decay > 0:
        beyond.append(best._replace(decay=best.decay - 1))
    return beyond
