"""Update rules in torch, one a file: the names and options of lopt/optimizers/."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lopt import factories
from lopt.errors import CheckpointError, ConfigError
from lopt.options import typed_options
from lopt.torch.rule import Rule, Theta
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


def built(
    name: str, theta: Theta, options: Mapping[str, Any], num_steps: int | None
) -> Rule:
    """The rule of a file: its weights, and the options in its header.

    Raises:
      CheckpointError: an unknown option, a value that it may not have, or weights that
        are not of these options.
      TypeError: the rule needs `num_steps`.
    """
    try:
        typed = typed_options(RULES[name], options, where="optimizer")
        factory = partial(RULES[name], theta, num_steps=num_steps)
        return factories.call(factory, typed, where="optimizer")
    except ConfigError as error:
        message = f"`{name}` in torch: {error.message}"
        raise CheckpointError(message, hint=error.hint) from error
