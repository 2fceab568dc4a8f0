"""Numbers of learned optimizers that are the same in every framework.

What they mean is told where they are used: in lopt/features.py, lopt/bases.py and
lopt/optimizers/.
"""

from collections.abc import Sequence
from typing import Literal

STARTS = ("random", "momentum")
Start = Literal["random", "momentum"]
"""What theta is before meta-training: random, as published, or such that the direction is
the normalized momentum, over the root of a second moment where the network sees that."""

TIME_SCALES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000)
"""In steps, of time features."""

CLIP = 1000.0
"""VeLO, Celo and Celo2 clip larger gradients, element by element, before all else."""

FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
"""Places of a run that VeLO and Celo know by how far they are."""

NUM_AVERAGES = 10
"""Of the loss, with as many horizons, that they keep."""

NUM_COURSE = len(FRACTIONS) + NUM_AVERAGES - 1
"""What they see of the course of a run."""

UNKNOWN_LAYERS = 3
"""The policy of `layerwise`: L where it is not known."""

LOGIT_GAIN = 3.0
"""Of its outputs as logits: a share needs 3 to go from 0.05 to 0.5, a step size less."""

EMA_DECAYS = (0.9, 0.99, 1.0)
"""Time scales of its averages, the last one keeps the first value for good."""

BOUND = 3.0
"""Measured inputs are clipped to ± this: what was not seen is not extrapolated wildly."""

STRUCTURE_BOUND = 1.5
"""Likewise for what is known of a run and a tensor beforehand."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration (Jordan et al., Muon, 2024)."""

TINY = 1e-30
"""Keeps quotients of zero gradients finite."""

DAMPING = 1e-4
"""What is added to the eigenvalues of a matrix of unit trace before its inverse root."""

INVERSE_ROOT = (
    (3.8497, -10.8489, 8.6115),
    (1.8085, -0.5783, 0.0626),
    (1.5072, -0.5908, 0.1179),
)
"""p_k(x) = a + bx + cx², a row each. Every one is the best for what was left before it:
it has the least max |1 − x^¼ p_k(x)|, where x is from `DAMPING` to 1 at first and then
x p_k(x)⁴, taken 0.5 % wider. Their product is x^(−¼) to 5.4 %."""


def factored_axes(shape: Sequence[int]) -> tuple[int, int] | None:
    """The axes (d1, d0) that the second moment is factored over; None below rank two.

    d0 is the largest axis and d1 the second largest; among equals the later counts as
    the larger.
    """
    if len(shape) < 2:
        return None
    order = sorted(range(len(shape)), key=lambda axis: shape[axis])
    return order[-2], order[-1]


def adafac_channels(num_momenta: int, num_second: int, num_factored: int) -> int:
    """How many channels `adafac_mlp` has: 28 with the published decays."""
    own = 2 + num_momenta + num_second
    products = max(num_momenta, num_second) + num_second
    factored = 5 * num_factored + max(num_momenta, num_factored)
    return own + products + factored


def velo_channels(num_momenta: int, num_second: int, num_factored: int) -> int:
    """How many VeLO, Celo and Celo2 have: 30 with the published decays."""
    products = max(num_momenta, num_second) + max(num_momenta, num_factored)
    return 3 + num_momenta + 3 * num_second + 5 * num_factored + products
