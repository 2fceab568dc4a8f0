"""Meta-training as a process: the imperative shell around the pure `Trainer`.

`build` makes a trainer of a configuration, with `outer_optimizer` for theta; `plan`
decides what a folder permits, `training` carries it out with `loop`, `selection` finds
the best theta on the way, `signals` lets it end in good order.
"""

from lopt.run.build import build as build
from lopt.run.loop import Progress as Progress
from lopt.run.signals import Interrupted as Interrupted
from lopt.run.training import Run as Run
from lopt.run.training import meta_train as meta_train
