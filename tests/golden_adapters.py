"""Translations of what the published optimizers call things into our names."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from golden_elementwise import (
    adafac_options,
    adafac_seen,
    adafac_state,
    celo2_options,
    celo2_seen,
    celo2_state,
    learnable_state,
    mlp_options,
    mlp_seen,
    mlp_state,
    mup_adafac_options,
    mup_adafac_seen,
)
from golden_recurrent import (
    celo_options,
    mixture_seen,
    nn_adam_options,
    nn_adam_seen,
    nn_adam_state,
    rnn_mlp_options,
    rnn_mlp_seen,
    rnn_mlp_state,
    velo_options,
    velo_state,
)
from recordings import Recording

# As names of the package these are the factories of the same names.
celo_module, velo = (
    importlib.import_module(f"lopt.optimizers.{name}") for name in ("celo", "velo")
)


@dataclass(frozen=True)
class Adapter:
    """Translates one published optimizer's names into ours.

    Attributes:
      tolerance: bound for E; from the README.
      architecture: the name of our optimizer.
      options: recording -> its options; those that only say where a meta-training
        starts are left out, for theta is recorded.
      state: our state, recording -> recorded key -> array.
      seen: what the network saw: recorded key -> array; keys as in the recording,
        without the step. Arguments: recording, theta, grads, params, the states
        before and after, the loss.
    """

    tolerance: float
    architecture: str
    state: Callable[..., dict]
    options: Callable[[Recording], dict] = lambda _: {}
    seen: Callable[..., dict] = lambda *_: {}


# What the README calls the measured agreement, with its suggested bounds.
ADAPTERS = {
    "LearnableSGD": Adapter(
        tolerance=5e-5,
        architecture="learnable_sgd",
        state=learnable_state(),
    ),
    "LearnableSGDM": Adapter(
        tolerance=5e-5,
        architecture="learnable_sgdm",
        state=learnable_state("trace"),
    ),
    "LearnableAdam": Adapter(
        tolerance=5e-5,
        architecture="learnable_adam",
        state=learnable_state("mu", "nu", count="optax_opt_state/0/count"),
    ),
    "NNAdam": Adapter(
        tolerance=1e-4,
        architecture="nn_adam",
        options=nn_adam_options,
        state=nn_adam_state,
        seen=nn_adam_seen,
    ),
    "MLPLOpt": Adapter(
        tolerance=2e-4,
        architecture="mlp",
        options=mlp_options,
        state=mlp_state,
        seen=mlp_seen,
    ),
    "AdafacMLPLOpt": Adapter(
        tolerance=1e-4,
        architecture="adafac_mlp",
        options=adafac_options,
        state=adafac_state,
        seen=adafac_seen,
    ),
    **dict.fromkeys(
        ("scale_by_celo2 (celo2_optax.py)", "Celo2 (celo2.py)"),
        Adapter(
            tolerance=1e-4,
            architecture="celo2",
            options=celo2_options,
            state=celo2_state,
            seen=celo2_seen,
        ),
    ),
    "RNNMLPLOpt": Adapter(
        tolerance=3e-4,
        architecture="rnn_mlp",
        options=rnn_mlp_options,
        state=rnn_mlp_state,
        seen=rnn_mlp_seen,
    ),
    "HyperV2": Adapter(
        tolerance=1e-4,
        architecture="velo",
        options=velo_options,
        state=velo_state,
        seen=mixture_seen(velo.tensor_inputs),
    ),
    "Celo": Adapter(
        tolerance=1e-4,
        architecture="celo",
        options=celo_options,
        state=velo_state,
        seen=mixture_seen(celo_module.run_alone),
    ),
    "MuAdafacMLPLOpt": Adapter(
        tolerance=1e-4,
        architecture="mup_adafac",
        options=mup_adafac_options,
        state=adafac_state,
        seen=mup_adafac_seen,
    ),
}
