"""Gradient estimators: from an `Unroll` to a meta-gradient, one a file."""

from collections.abc import Callable

from lopt.base import GradientEstimator
from lopt.estimators.es import es
from lopt.estimators.forward_gradient import forward_gradient
from lopt.estimators.full_es import full_es
from lopt.estimators.full_gradient import full_gradient
from lopt.estimators.gpes import gpes
from lopt.estimators.mixed import mixed
from lopt.estimators.nes import nes
from lopt.estimators.nres import nres
from lopt.estimators.pes import pes
from lopt.estimators.tbptt import tbptt

ESTIMATORS: dict[str, Callable[..., GradientEstimator]] = {
    "es": es,
    "forward_gradient": forward_gradient,
    "full_es": full_es,
    "full_gradient": full_gradient,
    "gpes": gpes,
    "mixed": mixed,
    "nes": nes,
    "nres": nres,
    "pes": pes,
    "tbptt": tbptt,
}
