"""What the policy of `layerwise` sees of each tensor, and what it decides.

As lopt/optimizers/inputs.py and policy.py define it for jax; those say why. Of what is
measured of a tensor there is one matrix, [1 + 1 + 1 + M, 3]: log gradient, log
parameters, agreement and M log signals, each averaged over three time scales.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from lopt.architecture import (
    BOUND,
    EMA_DECAYS,
    LOGIT_GAIN,
    STRUCTURE_BOUND,
    UNKNOWN_LAYERS,
)
from lopt.specs import ROLES, ParamSpec
from lopt.torch.packing import SMALLEST, Packing, Stacks, norms, products

EPS = 1e-12
NUM_SHARED, NUM_MEASURED, NUM_STRUCTURE = 6, 6, len(ROLES) + 3


@dataclass(frozen=True, kw_only=True)
class Prior:
    """The constants of the policy that the network corrects."""

    learning_rate: float
    decay_steps: float
    final: float
    weight_decay: float
    logit_scale: float
    decay_gain: float
    logits: tuple[float, ...]  # one for each base
    blend: tuple[float, ...]  # shares of the gradient and of each momentum

    def step_size(self, step: int, num_steps: int) -> float:
        """λ₀(t): hyperbolic decay times a linear descent to `final` at the end."""
        hyperbolic = self.learning_rate / (1.0 + step / self.decay_steps)
        return hyperbolic * (1.0 - (1.0 - self.final) * min(step / num_steps, 1.0))

    def decay(self, spec: ParamSpec) -> float:
        """ω₀ of a tensor."""
        layers = spec.num_layers or UNKNOWN_LAYERS
        factor = self.logit_scale ** (-1.0 / layers) if spec.is_matrix else 0.0
        return self.weight_decay * factor


class Policy(NamedTuple):
    """What every tensor should do now."""

    step_size: Tensor  # shape=[L], λ
    mixture: Tensor  # shape=[L, K], μ, rows sum to one
    blend: Tensor  # shape=[L, 1 + M], α, rows sum to one; the first is the gradient's
    weight_decay: Tensor  # shape=[L], ω


def measure(
    pack: Packing,
    grads: Stacks,
    params: Stacks,
    momenta: list[Stacks],
    decays: list[float],
) -> Tensor:
    """What is measured of each tensor in one step, [L, 3 + M].

    Args:
      pack: of the tensors.
      grads: [G, *shape].
      params: likewise.
      momenta: M times likewise, not yet unbiased.
      decays: what unbiased momenta are multiplied by to have these, 1 − β^(t+1).
    """
    middle = momenta[(len(momenta) - 1) // 2]
    columns = [
        torch.stack([norms(x).square() for x in (g, p, *ms)] + [products(g, m)], dim=1)
        for g, p, m, *ms in zip(grads, params, middle, *momenta, strict=True)
    ]
    means = pack.total(columns) / pack.sizes[:, None]
    rms = torch.sqrt(means[:, :-1].clamp_min(SMALLEST))
    grad, param, momentum = rms[:, :1], rms[:, 1:2], rms[:, 2:]
    momentum = momentum / rms.new_tensor(decays)
    middle_rms = momentum[:, (len(decays) - 1) // 2, None]
    product = means[:, -1:] / decays[(len(decays) - 1) // 2]
    log_grad = torch.log(grad + EPS)
    return torch.cat(
        [
            log_grad,
            torch.log(param + EPS),
            product / (grad * middle_rms + EPS * EPS),
            torch.log(momentum + EPS) - log_grad,
        ],
        dim=1,
    )


def update_averages(averages: Tensor, now: Tensor, is_first: Tensor) -> Tensor:
    """a ← γ a + (1 − γ) x for every γ, from a = x at the first step, [..., 3]."""
    now = now[..., None]
    decay = averages.new_tensor(EMA_DECAYS)
    return torch.where(is_first, now, decay * averages + (1 - decay) * now)


def policy_inputs(
    log_loss: Tensor, averages: Tensor, structure: Tensor, step: int, num_steps: int
) -> Tensor:
    """What the network sees of each tensor, [L, F].

    Args:
      log_loss: averages of the log loss, [3].
      averages: of what is measured, [L, 3 + M, 3].
      structure: what `structure_of` says of the tensors, [L, 10].
      step: updates before this one.
      num_steps: length of the run.
    """
    place = 2.0 * min(step / num_steps, 1.0) - 1.0
    logs = math.log1p(step) / 3.0 - 1.0, math.log(num_steps / 300.0)
    run = averages.new_tensor([place, place * place, *logs])
    loss = (log_loss[:2] - log_loss[1:]).clamp(-BOUND, BOUND)
    shared = torch.cat([run.clamp(-STRUCTURE_BOUND, STRUCTURE_BOUND), loss])
    grad, param, agreement = averages[:, 0], averages[:, 1], averages[:, 2]
    signal = averages[:, 3:]
    middle = signal[:, (signal.shape[1] - 1) // 2]
    columns = [
        grad[:, 0] - grad[:, 1],
        grad[:, 1] - grad[:, 2],
        param[:, 0] - param[:, 2],
        2.0 * agreement[:, 0] - 1.0,
        agreement[:, 0] - agreement[:, 1],
        middle[:, 0] - middle[:, 1],
    ]
    own = torch.cat([torch.stack(columns, dim=1), signal[:, :, 0] + 1.0], dim=1)
    own = own.clamp(-BOUND, BOUND)
    return torch.cat([shared.expand(len(own), -1), own, structure], dim=1)


def apply_network(layers: dict[str, Tensor], x: Tensor) -> Tensor:
    """tanh network, [L, F] -> [L, outputs]; linear where it has no hidden layer."""
    num_layers = len(layers) // 2
    for i in range(num_layers):
        x = torch.addmm(layers[f"b{i}"], x, layers[f"w{i}"])
        x = torch.tanh(x) if i < num_layers - 1 else x
    return x


def decide(
    prior: Prior,
    outputs: Tensor,
    available: Tensor,
    decay: Tensor,
    step_size: float,
) -> Policy:
    """The prior corrected by the network's outputs.

    Args:
      prior: its constants.
      outputs: [L, K + M + 3], before their gains: K mixture logits, 1 + M of the
        blend, log step size, log decay.
      available: for each tensor, which of the K bases it has, [L, K].
      decay: the prior's, [L].
      step_size: the prior's.
    """
    num_bases = len(prior.logits)
    logits = outputs.new_tensor(prior.logits) + LOGIT_GAIN * outputs[:, :num_bases]
    mixture = torch.softmax(logits.masked_fill(~available, -math.inf), dim=1)
    shares = outputs.new_tensor(prior.blend).log()
    blend = torch.softmax(shares + LOGIT_GAIN * outputs[:, num_bases:-2], dim=1)
    return Policy(
        step_size * torch.exp(outputs[:, -2]),
        mixture,
        blend,
        decay * torch.exp(prior.decay_gain * outputs[:, -1]),
    )


@lru_cache(maxsize=64)
def structure_of(specs: tuple[ParamSpec, ...], device: torch.device) -> Tensor:
    """What is known of each tensor beforehand, [L, 10]: role, place, layers, aspect."""
    known = torch.tensor([_structure(spec) for spec in specs], device=device)
    return known.clamp(-STRUCTURE_BOUND, STRUCTURE_BOUND)


def _structure(spec: ParamSpec) -> Sequence[float]:
    role = [float(spec.role == role) for role in ROLES]
    place = 0.0 if spec.depth is None else 2.0 * spec.depth - 1.0
    layers = 0.0 if spec.num_layers is None else math.log(spec.num_layers / 3.0)
    aspect = 0.0
    if spec.is_matrix:
        base_in, base_out = spec.fan_in / spec.width_in, spec.fan_out / spec.width_out
        aspect = math.log(base_out / base_in) / 3.0
    return [*role, place, layers, aspect]
