"""Update rules in torch, one a file: the names and options of lopt/optimizers/."""

from collections.abc import Callable

from lopt.torch.rule import Rule
from lopt.torch.rules.adafac_mlp import adafac_mlp
from lopt.torch.rules.celo import celo
from lopt.torch.rules.celo2 import celo2
from lopt.torch.rules.layerwise import layerwise
from lopt.torch.rules.learnable import learnable_adam, learnable_sgd, learnable_sgdm
from lopt.torch.rules.mlp import mlp
from lopt.torch.rules.nn_adam import nn_adam
from lopt.torch.rules.preprocessed import mup_adafac
from lopt.torch.rules.rnn_mlp import rnn_mlp
from lopt.torch.rules.velo import velo

RULES: dict[str, Callable[..., Rule]] = {
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

SHARDED = frozenset({"adafac_mlp", "celo2", "layerwise", "mlp"})
"""Those that take DTensors."""
