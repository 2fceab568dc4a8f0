"""What published files call the tensors of the architectures that lopt has too.

Sources, as read in their own code:

* google/learned_optimization, `learned_optimizers/{mlp_lopt,adafac_mlp_lopt,nn_adam,
  base}.py`; weights are [inputs, outputs]. `make_separate_weights` stores every weight of
  `AdafacMLPLOpt` as a scalar, `w0_3_1` for input 3 and output 1. What wraps theta: a
  `ParameterCheckpoint` (`outer_trainers/gradient_learner.py`), a triple in older files
  (`research/general_lopt/pretrained_optimizers.py`), or the state of a trainer
  (mu_learned_optimization, `src/helpers.py`).
* PyLO, `models/Meta_MLP.py`; weights are [outputs, inputs]. Its files on the hub have no
  decays: those of `btherien/mulo` are defaults of `optim/AdafacLO_naive.py`, where they
  are offsets from the same starting values; ELO (`optim/ELO_naive.py`) has none, so that
  its offsets are zero. `optim/AdafacLO_cuda.py` also reads files that carry them. It
  clips momentum decays to [0, 1], where the published ones lie anyway; ours are free.

This module uses the standard library alone.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

LEARNED_OPTIMIZATION = "google/learned_optimization"
CELO = "amoudgl/celo"
PYLO = "PyLO"

_NN_ADAM = ("lr", "beta1", "beta2", "epsilon")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which the tensors of an architecture are named and laid out.

    Attributes:
      source: the project that writes it.
      names: number of layers -> our tensors' names, and theirs.
      layer: matches the names of the network's tensors; group 1 tells layers apart.
      inputs_first: whether the network's weights are [inputs, outputs]; ours are
        [outputs, inputs].
      absent: values of tensors that such files do not carry, by our names.
      unused: theirs, of tensors that have no effect, and that we have not.
    """

    source: str
    names: Callable[[int], dict[str, str]]
    layer: str = r"(?!)"
    inputs_first: bool = False
    absent: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def names_in(self, found: Iterable[str]) -> dict[str, str]:
        """Our tensors' names, and theirs in a file that has tensors of these names."""
        matches = (re.match(self.layer, name) for name in found)
        return self.names(len({match[1] for match in matches if match}))


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An architecture of ours that others publish weights of.

    Attributes:
      layouts: how they are published.
      starting: options that only say where a meta-training starts; theta holds what
        became of them.
    """

    layouts: tuple[Layout, ...]
    starting: tuple[str, ...] = ("start",)


def _fixed(names: dict[str, str]) -> Layout:
    return Layout(source=LEARNED_OPTIMIZATION, names=lambda _: names)


def _network(num_layers: int, name: Callable[[int, str], str]) -> dict[str, str]:
    return {f"network/{k}{i}": name(i, k) for i in range(num_layers) for k in "wb"}


_DECAYS = {
    "momentum_decays": "momentum_decays",
    "rms_decays": "rms_decays",
    "factored_decays": "adafactor_decays",
}
_MULO_DECAYS = {
    "momentum_decays": (0.15216392, 0.14245212, 0.06812963),
    "rms_decays": (0.01079706,),
    "factored_decays": (0.18621896, -0.10864615, -0.06185547),
}
_ELO_DECAYS = {name: (0.0,) * len(values) for name, values in _MULO_DECAYS.items()}

_ADAFAC = Layout(
    source=LEARNED_OPTIMIZATION,
    names=lambda n: {**_DECAYS, **_network(n, lambda i, k: f"nn/~/{k}{i}")},
    layer=r"nn/~/[wb](\d+)$",
    inputs_first=True,
)


def _pylo_names(num_layers: int) -> dict[str, str]:
    inner = (f"linear_{i}" for i in range(num_layers - 2))
    layers = ("input", *inner, "output")
    kinds = {"w": "weight", "b": "bias"}
    return _network(len(layers), lambda i, k: f"network.{layers[i]}.{kinds[k]}")


def _pylo(absent: Mapping[str, tuple[float, ...]]) -> Layout:
    """The state of a `MetaMLP`, without the decays."""
    return Layout(
        source=PYLO,
        names=_pylo_names,
        layer=r"network\.(input|linear_\d+|output)\.",
        absent=absent,
    )


def _pylo_file_names(num_layers: int) -> dict[str, str]:
    decays = {ours: f"decays/{theirs}" for ours, theirs in _DECAYS.items()}
    names = _pylo_names(num_layers).items()
    return {**decays, **{ours: f"state_dict/{theirs}" for ours, theirs in names}}


_PYLO_WITH_DECAYS = Layout(
    source=PYLO,
    names=_pylo_file_names,
    layer=r"state_dict/network\.(input|linear_\d+|output)\.",
)

_LSTM = {
    "lstm/linear/w": "rnn_params/rnn/linear/w",
    "lstm/linear/b": "rnn_params/rnn/linear/b",
    "lstm/hidden": "lstm_init_state/hidden",
    "lstm/cell": "lstm_init_state/cell",
}
_CELO_NETWORK = r"ff_mod_stack/~/[wb](\d+)$"


def _celo_names(num_layers: int) -> dict[str, str]:
    return _network(num_layers, lambda i, k: f"ff_mod_stack/~/{k}{i}")


def _velo_names(num_layers: int) -> dict[str, str]:
    linear = {
        "shared": "linear_1",
        "own": "linear_2",
        "controls": "rnn_to_controls",
        "step_size": "step_size",
    }
    names = {f"{a}/{k}": f"rnn_params/{b}/{k}" for a, b in linear.items() for k in "wb"}
    return {**_celo_names(num_layers), **_LSTM, **names}


def _rnn_mlp_names(num_layers: int) -> dict[str, str]:
    linear = {"to_all": "rnn_to_in", "to_mlp": "rnn_to_ff"}
    return {
        **_network(num_layers, lambda i, k: f"ffmod_params/mlp/~/linear_{i}/{k}"),
        **_LSTM,
        **{f"{a}/{k}": f"{b}_params/{b}/{k}" for a, b in linear.items() for k in "wb"},
        "from_lstm": "initial_from_lstm",
        "from_mlp": "initial_from_mlp",
    }


def _velo(source: str) -> Layout:
    return Layout(
        source=source,
        names=_velo_names,
        layer=_CELO_NETWORK,
        inputs_first=True,
        unused=("rnn_params/linear/w", "rnn_params/linear/b"),
    )


ARCHITECTURES: dict[str, Architecture] = {
    "adafac_mlp": Architecture(layouts=(_ADAFAC, _pylo(_ELO_DECAYS), _PYLO_WITH_DECAYS)),
    "celo": Architecture(layouts=(_velo(CELO),)),
    "celo2": Architecture(
        layouts=(
            Layout(
                source=CELO, names=_celo_names, layer=_CELO_NETWORK, inputs_first=True
            ),
        )
    ),
    "learnable_adam": Architecture(
        layouts=(
            _fixed(
                {
                    "log_lr": "log_lr",
                    "log_one_minus_b1": "one_minus_beta1",
                    "log_one_minus_b2": "one_minus_beta2",
                    "log_eps": "log_epsilon",
                }
            ),
        ),
        starting=("learning_rate", "b1", "b2", "eps"),
    ),
    "learnable_sgd": Architecture(
        layouts=(_fixed({"log_lr": "log_lr"}),), starting=("learning_rate",)
    ),
    "learnable_sgdm": Architecture(
        layouts=(
            _fixed({"log_lr": "log_lr", "log_one_minus_momentum": "one_minus_momentum"}),
        ),
        starting=("learning_rate", "momentum"),
    ),
    "mlp": Architecture(
        layouts=(
            Layout(
                source=LEARNED_OPTIMIZATION,
                names=lambda n: _network(n, lambda i, k: f"mlp/~/linear_{i}/{k}"),
                layer=r"mlp/~/linear_(\d+)/",
                inputs_first=True,
            ),
        )
    ),
    "mup_adafac": Architecture(layouts=(_ADAFAC, _pylo(_MULO_DECAYS), _PYLO_WITH_DECAYS)),
    "nn_adam": Architecture(
        layouts=(
            _fixed(
                {
                    **{f"initial/{n}": f"per_layer_{n}" for n in _NN_ADAM},
                    **_LSTM,
                    "controls/w": "rnn_to_controls_params/rnn_to_controls/w",
                    "controls/b": "rnn_to_controls_params/rnn_to_controls/b",
                }
            ),
        ),
        starting=("learning_rate", "b1", "b2", "eps"),
    ),
    "rnn_mlp": Architecture(
        layouts=(
            Layout(
                source=LEARNED_OPTIMIZATION,
                names=_rnn_mlp_names,
                layer=r"ffmod_params/mlp/~/linear_(\d+)/",
                inputs_first=True,
            ),
        )
    ),
    "velo": Architecture(layouts=(_velo(LEARNED_OPTIMIZATION),)),
}
"""By the name of our factory. `adafac_mlp` and `mup_adafac` share their layouts; where
PyLO's files lack the decays, the one stands for ELO, the other for μLO."""

WRAPPERS: dict[str, frozenset[str] | None] = {
    "gradient_learner_state/theta_opt_state/params/": None,
    "params/": frozenset({"gen_id", "step"}),
    "0/": frozenset({"1", "2"}),
}
"""What theta's names start with inside of checkpoints, and which names stand beside it;
None: any, the states of a trainer."""

GROUPED_WEIGHT = re.compile(r"(.+/w0)__(\d+)")
"""A first layer's weights that are stored by groups of inputs: its tensor, its place."""

SCALAR_WEIGHT = re.compile(r"(nn/~/[wb]\d+)_(\d+)(?:_(\d+))?")
"""A weight that is stored by itself: its tensor, and its place in it."""
