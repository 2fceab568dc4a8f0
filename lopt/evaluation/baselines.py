"""Where hand-designed optimizers (lopt.optimizers.hand_designed) are tuned.

`static` is the control: the prior of `layerwise`, λ and ω tuned, its network left out.
Another control, `schedule`, is made of the learned optimizer itself (schedule.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lopt.base import LearnedOptimizer
from lopt.errors import unknown_name
from lopt.evaluation.tuning import SearchSpace
from lopt.evaluation.workers import Notify
from lopt.optimizers.hand_designed import HAND_DESIGNED, hyperparameters
from lopt.optimizers.layerwise import (
    layerwise,
    layerwise_following,
    prior_decisions,
)
from lopt.options import resolved


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A hand-designed optimizer and its search space.

    Attributes:
      name: in `BASELINES`.
      lopt: theta are `learning_rate`, `weight_decay` and `constant` (0 or 1), all [].
      space: where it is tuned.
      control: compared with, but not one of "all": it is a part of what was learned.
    """

    name: str
    lopt: LearnedOptimizer
    space: SearchSpace
    control: bool = False


Maker = Callable[[Sequence[int], Sequence[Any], Notify], Baseline]
"""`(run lengths, devices to compute on, told what is done) -> Baseline`."""


@dataclass(frozen=True)
class Control:
    """A control that is made, for the run lengths that are compared, when it is known
    that all else is in order."""

    name: str
    make: Maker


_SGD_DECAYS = (0.0, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)
"""A decay acts through rate times decay, and the rates of SGD are larger."""
_MUON_DECAYS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.55, 0.75, 1.0, 1.5, 3.0, 10.0)
"""Close to each other, because its best decay is sharp, and grows with depth."""
_LION_DECAYS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_OPTIONS = resolved(layerwise, {})
_STATIC = LearnedOptimizer(
    hyperparameters, layerwise_following(prior_decisions(_OPTIONS), _OPTIONS)
)
_STATIC_DECAYS = (0.0, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
"""In units of the prior's own; close together, for its best is a narrow one."""

BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline(
            name="sgd",
            lopt=HAND_DESIGNED["sgd"],
            space=SearchSpace(learning_rate=1.0, decays=_SGD_DECAYS),
        ),
        Baseline(
            name="adam",
            lopt=HAND_DESIGNED["adam"],
            space=SearchSpace(
                learning_rate=0.016, decays=(0.0,), num_decays=1, center_decay=0
            ),
        ),
        Baseline(
            name="adamw",
            lopt=HAND_DESIGNED["adamw"],
            space=SearchSpace(learning_rate=0.016),
        ),
        Baseline(
            name="lion",
            lopt=HAND_DESIGNED["lion"],
            space=SearchSpace(learning_rate=2e-3, decays=_LION_DECAYS),
        ),
        Baseline(
            name="muon",
            lopt=HAND_DESIGNED["muon"],
            space=SearchSpace(
                learning_rate=0.05, decays=_MUON_DECAYS, num_decays=8, center_decay=4
            ),
        ),
        Baseline(
            name="static",
            lopt=_STATIC,
            space=SearchSpace(
                learning_rate=_OPTIONS["learning_rate"],
                decays=tuple(x * _OPTIONS["weight_decay"] for x in _STATIC_DECAYS),
                center_decay=3,
                schedules=(False,),
            ),
            control=True,
        ),
    )
}
"""Every hand-designed optimizer, by name."""

DEFAULT_BASELINES = ("sgd", "adam", "adamw", "lion", "muon")
"""What "all baselines" means."""


def baseline(name: str) -> Baseline:
    """The baseline of that name.

    Raises:
      ConfigError: there is none.
    """
    if name not in BASELINES:
        raise unknown_name("baseline", name, BASELINES)
    return BASELINES[name]
