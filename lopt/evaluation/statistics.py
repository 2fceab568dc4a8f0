"""Budgets, speed-ups and their uncertainty: plain numpy on results that are known.

Every optimizer is run with several budgets, each run's schedule ending with it. A
*result* is a loss, averaged over seeds. What a budget can reach is the lowest result of
any budget up to it: whoever has more steps may stop early. Between two budgets results
are interpolated, log loss against log budget. Then, with T the largest budget,

    speed-up = T / (the budget at which ours equals the best baseline at T)

and, where ours at T is worse than the best baseline at T,

    speed-up = (the budget at which the baselines' lower envelope equals ours at T) / T.

Neither side is ever read in the middle of a schedule. A crossing outside the budgets
that were run is not extrapolated: it is *censored*, the speed-up is then at least T
over the smallest budget, or at most the inverse.

References:
  Wen, Hall, Ma, Liang, Fantastic Pretraining Optimizers and Where to Find Them, 2025,
  on comparing at the end of schedules.
  Efron, Bootstrap Methods: Another Look at the Jackknife, 1979.
"""

from typing import NamedTuple

import numpy as np

LEVELS = (0.80, 0.95)
"""Coverage of the intervals that are reported."""


class SpeedUps(NamedTuple):
    """Speed-ups, batched over whatever axes the losses had before [.., budgets]."""

    value: np.ndarray  # shape=[...]
    censored: np.ndarray  # shape=[...], int: 1 at least `value`, -1 at most, 0 exact


def reachable(losses: np.ndarray) -> np.ndarray:
    """Lowest loss of any budget up to each, [..., B] -> [..., B]."""
    return np.minimum.accumulate(losses, axis=-1)


def envelope(losses: np.ndarray) -> np.ndarray:
    """What the best of several optimizers reaches, [N, ..., B] -> [..., B]."""
    return reachable(np.min(losses, axis=0))


def budget_to_reach(
    budgets: np.ndarray, losses: np.ndarray, target: np.ndarray | float
) -> np.ndarray:
    """The first budget at which a curve equals a target.

    Args:
      budgets: [B], positive, increasing.
      losses: [..., B]; their running minimum counts.
      target: [...].

    Returns:
      [...]: the budget; 0 where the first one is already better than the target (equal
      to it: that budget), inf where none reaches it. Losses are interpolated in logs,
      or as they are where one is not positive.
    """
    curve = reachable(np.asarray(losses, float))
    target = np.broadcast_to(np.asarray(target, float), curve.shape[:-1])
    if (curve > 0).all() and (target > 0).all():
        curve, target = np.log(curve), np.log(target)
    log_budgets = np.log(np.asarray(budgets, float))
    reached = curve <= target[..., None]
    right = np.argmax(reached, axis=-1)
    left = np.maximum(right - 1, 0)
    high = np.take_along_axis(curve, left[..., None], -1)[..., 0]
    low = np.take_along_axis(curve, right[..., None], -1)[..., 0]
    drop = high - low
    fraction = np.where(drop > 0, (high - target) / np.where(drop > 0, drop, 1), 0.0)
    log_budget = log_budgets[left] + fraction * (log_budgets[right] - log_budgets[left])
    result = np.where(reached.any(-1), np.exp(log_budget), np.inf)
    return np.where(curve[..., 0] < target, 0.0, result)


def speed_ups(budgets: np.ndarray, ours: np.ndarray, baselines: np.ndarray) -> SpeedUps:
    """Speed-up of ours over the best of the baselines, budget for budget.

    Args:
      budgets: [B], increasing; the last is T.
      ours: [..., B] results.
      baselines: [N, ..., B] results.

    Returns:
      Values within [budgets[0] / T, T / budgets[0]], and where they are bounds.
    """
    budgets = np.asarray(budgets, float)
    best, ours = envelope(np.asarray(baselines, float)), reachable(np.asarray(ours))
    total, widest = budgets[-1], budgets[-1] / budgets[0]
    needed = budget_to_reach(budgets, ours, best[..., -1])
    matched = budget_to_reach(budgets, best, ours[..., -1])
    wins = ours[..., -1] <= best[..., -1]
    with np.errstate(divide="ignore"):
        value = np.where(wins, total / needed, matched / total)
    censored = np.where(wins & (needed == 0), 1, 0)
    censored = np.where(~wins & (matched == 0), -1, censored)
    return SpeedUps(np.clip(value, 1 / widest, widest), censored)


def resample(num_seeds: int, num_samples: int, seed: int) -> np.ndarray:
    """Indices of seeds drawn with replacement, [num_samples, num_seeds]."""
    generator = np.random.default_rng(seed)
    return generator.integers(num_seeds, size=(num_samples, num_seeds))


def bootstrap_speed_ups(
    budgets: np.ndarray, ours: np.ndarray, baselines: np.ndarray, draws: np.ndarray
) -> np.ndarray:
    """The speed-up on resampled seeds, one draw for both sides: the runs are paired.

    Args:
      budgets: [B].
      ours: [B, S] losses, one for each seed.
      baselines: [N, B, S], on the same seeds.
      draws: [R, S] indices of seeds.

    Returns:
      [R] speed-ups.
    """
    ours = np.moveaxis(np.asarray(ours)[:, draws].mean(-1), 0, -1)
    theirs = np.moveaxis(np.asarray(baselines)[:, :, draws].mean(-1), 1, -1)
    return speed_ups(budgets, ours, theirs).value


def interval(samples: np.ndarray, level: float) -> tuple[float, float]:
    """The central percentile interval of bootstrap samples."""
    tail = (1 - level) / 2
    # Samples may be equal to a bound: interpolating between them is harmless.
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def first_below(steps: np.ndarray, curve: np.ndarray, target: float) -> int | None:
    """The first step at which a curve is at most `target`; None if it never is."""
    below = np.flatnonzero(np.asarray(curve) <= target)
    return int(np.asarray(steps)[below[0]]) if below.size else None
