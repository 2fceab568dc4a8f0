"""Learned optimizers, one a file: factories of `theta -> optax optimizer`."""

from collections.abc import Callable

from lopt.base import LearnedOptimizer
from lopt.optimizers.adafac_mlp import adafac_mlp
from lopt.optimizers.celo import celo
from lopt.optimizers.celo2 import celo2
from lopt.optimizers.layerwise import layerwise
from lopt.optimizers.learnable import learnable_adam, learnable_sgd, learnable_sgdm
from lopt.optimizers.mlp import mlp
from lopt.optimizers.nn_adam import nn_adam
from lopt.optimizers.preprocessed import mup_adafac
from lopt.optimizers.rnn_mlp import rnn_mlp
from lopt.optimizers.schedule import schedule
from lopt.optimizers.velo import velo

OPTIMIZERS: dict[str, Callable[..., LearnedOptimizer]] = {
    "adafac_mlp": adafac_mlp,
    "celo": celo,
    "celo2": celo2,
    "layerwise": layerwise,
    "learnable_adam": learnable_adam,
    "learnable_sgd": learnable_sgd,
    "learnable_sgdm": learnable_sgdm,
    "mlp": mlp,
    "mup_adafac": mup_adafac,
    "nn_adam": nn_adam,
    "rnn_mlp": rnn_mlp,
    "velo": velo,
}

FROZEN: dict[str, Callable[..., LearnedOptimizer]] = {"schedule": schedule}
"""What files hold, too, but no one meta-trains."""
