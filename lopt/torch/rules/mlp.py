"""The per-parameter MLP on momenta and time features; pairs lopt/optimizers/mlp.py.

References:
  Metz, Maheswaranathan, Nixon, Freeman, Sohl-Dickstein, Understanding and correcting
  pathologies in the training of learned optimizers, 2019, arXiv 1810.10180.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lopt import checks
from lopt.architecture import TIME_SCALES, Start
from lopt.specs import ParamSpec, update_multiplier
from lopt.torch import features, network, shards
from lopt.torch.features import Piece
from lopt.torch.network import Channels
from lopt.torch.packing import packing
from lopt.torch.rule import Rule, State, Theta
from lopt.torch.stacks import stacks
from lopt.torch.stored import StateDtype, narrowed
from lopt.torch.theta import check_theta, network_shapes
from lopt.torch.threads import over_pieces


def mlp(
    theta: Theta,
    *,
    num_steps: int | None = None,
    hidden_sizes: Sequence[int] = (32, 32),
    decays: Sequence[float] = (0.1, 0.5, 0.9, 0.99, 0.999, 0.9999),
    step_mult: float = 0.001,
    exp_mult: float = 0.001,
    eps: float = 1e-5,
    state_dtype: StateDtype = "float32",
    start: Start = "random",
) -> Rule:
    """p ← p - λ · step_mult · a · exp(exp_mult · b), for outputs (a, b) of the network.

    Options are those of the pair.

    Raises:
      BrokenRule: an option is out of range.
      CheckpointError: theta is not of these options.
    """
    del num_steps, start
    checks.check_positive(step_mult=step_mult, eps=eps)
    checks.check_decays(decays=decays)
    num_inputs = 2 + len(decays) + len(TIME_SCALES)
    check_theta(theta, {"network": network_shapes(num_inputs, *hidden_sizes, 2)})
    layers, settings = theta["network"], (step_mult, exp_mult, eps, state_dtype)
    return _Mlp(layers, layers["b0"].new_tensor(decays), *settings)


@dataclass(frozen=True)
class _Mlp:
    network: Theta
    decays: Tensor
    step_mult: float
    exp_mult: float
    eps: float
    state_dtype: StateDtype
    reads_loss = False

    def init(self, params: Sequence[Tensor], specs: Sequence[ParamSpec]) -> State:
        momenta = [{"momenta": features.zeros(p, len(self.decays))} for p in params]
        state = State(tuple(specs), {"step": features.start_step()}, momenta)
        return narrowed(state, self.state_dtype)

    def update(
        self,
        grads: Sequence[Tensor],
        state: State,
        params: Sequence[Tensor],
        loss: Tensor | None,
    ) -> list[Tensor]:
        del loss
        time = features.tanh_time_features(state.shared["step"], self.decays.device)
        pack, updates = packing(state.specs, params), []
        for x in stacks(pack, grads, state, params):
            g, m = shards.local(x.g), shards.local(x.kept["momenta"])
            _observe(m, g, self.decays)
            size = -update_multiplier(x.spec, "entrywise") * self.step_mult
            settings = time, self.eps, size, self.exp_mult
            channels = _channels(g, shards.local(x.p), m)
            updates.append(network.updated(self.network, channels, x.p, *settings))
        state.shared["step"] += 1
        return pack.unpack(updates, params)


def _observe(m: Tensor, g: Tensor, decays: Tensor) -> None:
    def update(piece: Piece) -> None:
        features.update_momenta(features.part(m, piece), g[piece], decays)

    over_pieces(g, lambda: update)


def _channels(g: Tensor, p: Tensor, m: Tensor) -> Channels:
    """g, p, momenta."""

    def write(piece: Piece, x: Tensor) -> None:
        x[:, 0], x[:, 1], x[:, 2:] = g[piece], p[piece], features.part(m, piece)

    return Channels(write)
