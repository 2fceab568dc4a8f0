"""What VeLO and Celo know of the course of a run; pairs lopt/optimizers/course.py."""

import torch
from torch import Tensor

from lopt.architecture import FRACTIONS, NUM_AVERAGES


def fraction_features(step: int, num_steps: int, device: torch.device) -> Tensor:
    """tanh(10 (t / T - c)) for nine places c of the run: [9]."""
    places = torch.tensor(FRACTIONS, device=device)
    return torch.tanh(10.0 * (step / num_steps - places))


def start_losses(device: torch.device) -> dict[str, Tensor]:
    """Before the first loss: the means, and the lowest corrected ones, [10]."""
    zeros = torch.zeros(NUM_AVERAGES, device=device)
    return {"loss_means": zeros, "lowest_losses": zeros + 999999999999.0}


def add_loss(
    losses: dict[str, Tensor], loss: Tensor | None, num_losses: int, horizon: int
) -> None:
    """Another loss, which counts for no more than twice the largest mean.

    As published, the old means are corrected by the new number of losses there.

    Args:
      losses: those of `start_losses`, changed in place.
      loss: [].
      num_losses: that were added before.
      horizon: of the longest mean.

    Raises:
      TypeError: there is no loss.
    """
    if loss is None:
        raise TypeError("this optimizer reads the loss: call `step(loss=loss)`")
    means, lowest = losses["loss_means"], losses["lowest_losses"]
    decays = _decays(horizon, means)
    correction = 1.0 - decays ** (num_losses + 1)
    largest = torch.max(means / correction) if num_losses else loss
    clipped = torch.minimum(2.0 * largest.abs(), loss)
    means.copy_(decays * means + (1.0 - decays) * clipped)
    lowest.copy_(torch.minimum(lowest, means / correction))


def loss_features(losses: dict[str, Tensor], num_losses: int, horizon: int) -> Tensor:
    """Where each mean is between its lowest and the next longer one: [9], in [-1, 1]."""
    means, lowest = losses["loss_means"], losses["lowest_losses"][:-1]
    if num_losses <= 2:
        return torch.zeros_like(lowest)
    means = means / (1.0 - _decays(horizon, means) ** num_losses)
    spread = (means[1:] - lowest).clamp(min=1e-8)
    return ((means[:-1] - lowest) / spread - 1.0).clamp(-1.0, 1.0)


def _decays(horizon: int, like: Tensor) -> Tensor:
    """exp(-1/h) for horizons h from 10 to `horizon`, evenly on a log scale: [10]."""
    places = torch.arange(NUM_AVERAGES, device=like.device) / (NUM_AVERAGES - 1)
    longest = torch.log10(like.new_tensor(float(horizon)))
    return torch.exp(-(10.0 ** -(1.0 + places * (longest - 1.0))))
