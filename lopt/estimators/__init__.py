"""Gradient estimators: from an `Unroll` to a meta-gradient, one a file."""

from collections.abc import Callable

from lopt.base import GradientEstimator
from lopt.estimators.es import es
from lopt.estimators.gpes import gpes
from lopt.estimators.nres import nres
from lopt.estimators.pes import pes
from lopt.estimators.tbptt import tbptt

ESTIMATORS: dict[str, Callable[..., GradientEstimator]] = {
    "es": es,
    "gpes": gpes,
    "nres": nres,
    "pes": pes,
    "tbptt": tbptt,
}
