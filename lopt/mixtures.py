"""Which groups of tasks take part in an outer step, and what they count.

With W_i the weights of the groups that have entered, which here sum to one, a step takes
n of them, group i with probability π_i = min(1, c W_i), c such that Σ π_i = n, and
multiplies its weight by 1/π_i; a group that rests counts nothing. So

    E[Σ_drawn (W_i/π_i) g_i] = Σ_i W_i g_i

the meta-gradient of all groups, and the weights of those drawn sum to one. Where no W_i
exceeds 1/n, that is the plain mean over those drawn.

Exactly n are drawn, none twice, by systematic sampling: the π_i are laid end to end, in a
random order, and the groups drawn are those in which u, u + 1, … fall, u uniform in
(0, 1). Draws depend on nothing but the seed and the number of the step; they are made on
the host, which knows that number and so need not wait for the device.

References:
  Horvitz, Thompson, A generalization of sampling without replacement from a finite
  universe, 1952: weights 1/π. Madow, On the theory of systematic sampling, II, 1949.
  Bengio, Louradour, Collobert, Weston, Curriculum learning, 2009: what enters later.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIXTURE = 0x313C7
"""Beside the run's seed: what is drawn here has nothing to do with other draws."""

Factors = Sequence[float] | None
"""One a group, of its weight in an outer step, 0 where it rests; None: 1 for each."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What takes part in which outer step.

    Attributes:
      weights: of each group, the sum over its tasks; all groups together sum to one.
      enters: of each group, the share of the outer steps before it takes part.
      number: n, how many groups a step takes; 0: all.
      outer_steps: how many there will be.
      seed: of the draws.
    """

    weights: tuple[float, ...]
    enters: tuple[float, ...]
    number: int
    outer_steps: int
    seed: int

    def factors(self, done: int) -> tuple[float, ...]:
        """What each group's weight is multiplied by after `done` steps; 0: it rests."""
        draws = np.random.default_rng((MIXTURE, self.seed, done))
        order = draws.permutation(len(self.weights))
        return self.factors_of(done, order, draws.random())

    def factors_of(
        self, done: int, order: Sequence[int] | np.ndarray, start: float
    ) -> tuple[float, ...]:
        """The same for a given draw: see `drawn`."""
        chosen = np.asarray(self.enters) <= done / self.outer_steps
        weights = np.where(chosen, self.weights, 0.0)
        weights /= weights.sum()
        inclusion = np.ones(len(weights))
        if 0 < self.number < chosen.sum():
            inclusion = inclusion_probabilities(weights, self.number)
            chosen = drawn(inclusion, order, start)
        factors = np.zeros(len(weights))
        scale = weights[chosen] / np.asarray(self.weights)[chosen]
        factors[chosen] = scale / inclusion[chosen]
        return tuple(factors.tolist())


def inclusion_probabilities(weights: np.ndarray, number: int) -> np.ndarray:
    """min(1, c weights), c such that they sum to `number`; fewer than are positive."""
    probabilities = number * weights / weights.sum()
    while (probabilities > 1).any():
        sure = probabilities >= 1
        rest = np.where(sure, 0.0, weights)
        left = (number - sure.sum()) * rest / rest.sum()
        probabilities = np.where(sure, 1.0, left)
    return probabilities


def drawn(
    probabilities: np.ndarray, order: Sequence[int] | np.ndarray, start: float
) -> np.ndarray:
    """Which are drawn, bool: those in which `start`, `start` + 1, … fall.

    Args:
      probabilities: at most 1 each; their sum is an integer.
      order: in which they are laid end to end.
      start: in [0, 1).
    """
    order = np.asarray(order)
    order = order[probabilities[order] > 0]
    ends = np.cumsum(probabilities[order])
    ends[-1] = round(ends[-1])  # what rounding has lost would be nobody's
    marks = np.floor(np.concatenate([[0.0], ends]) - start)
    chosen = np.zeros(len(probabilities), bool)
    chosen[order] = np.diff(marks) > 0
    return chosen
