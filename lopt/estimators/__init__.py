"""Gradient estimators: from an `Unroll` to a meta-gradient, one a file."""

from collections.abc import Callable

from lopt.base import GradientEstimator
from lopt.estimators.es import es
from lopt.estimators.nres import nres
from lopt.estimators.pes import pes

ESTIMATORS: dict[str, Callable[..., GradientEstimator]] = {
    "es": es,
    "nres": nres,
    "pes": pes,
}
