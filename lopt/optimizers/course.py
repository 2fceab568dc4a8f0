"""What VeLO and Celo know of the course of a run: how far it is, how the loss falls."""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike

from lopt.architecture import FRACTIONS, NUM_AVERAGES
from lopt.base import Array


class LossAverages(NamedTuple):
    """Running means of the loss, of horizons from 10 steps to that of the run."""

    step: Array  # shape=[], int32: losses seen
    means: Array  # shape=[10]
    lowest: Array  # shape=[10], of the corrected means


def fraction_features(step: Array, num_steps: ArrayLike) -> Array:
    """tanh(10 (t / T - c)) for nine places c of the run: [9]."""
    return jnp.tanh(10.0 * (step / num_steps - jnp.asarray(FRACTIONS)))


def init_losses() -> LossAverages:
    """Before the first loss."""
    zeros = jnp.zeros(NUM_AVERAGES)
    return LossAverages(jnp.zeros([], jnp.int32), zeros, zeros + 999999999999.0)


def loss_decays(horizon: ArrayLike) -> Array:
    """exp(-1/h) for horizons h from 10 to `horizon`, evenly on a log scale: [10]."""
    places = jnp.arange(NUM_AVERAGES) / (NUM_AVERAGES - 1)
    return jnp.exp(-(10.0 ** -(1.0 + places * (jnp.log10(horizon) - 1.0))))


def add_loss(losses: LossAverages, loss: Array, horizon: ArrayLike) -> LossAverages:
    """The means with another loss, which counts for no more than twice the largest.

    As published, the old means are corrected by the new number of losses there.
    """
    decays = loss_decays(horizon)
    correction = 1.0 - decays ** (losses.step + 1).astype(jnp.float32)
    largest = jnp.where(losses.step == 0, loss, jnp.max(losses.means / correction))
    clipped = jnp.minimum(2.0 * jnp.abs(largest), loss)
    means = decays * losses.means + (1.0 - decays) * clipped
    lowest = jnp.minimum(losses.lowest, means / correction)
    return LossAverages(losses.step + 1, means, lowest)


def loss_features(losses: LossAverages, horizon: ArrayLike) -> Array:
    """Where each mean is between its lowest and the next longer one: [9], in [-1, 1]."""
    correction = 1.0 - loss_decays(horizon) ** losses.step.astype(jnp.float32)
    means, lowest = losses.means / correction, losses.lowest[:-1]
    spread = jnp.maximum(1e-8, means[1:] - lowest)
    found = jnp.clip((means[:-1] - lowest) / spread - 1.0, -1.0, 1.0)
    return jnp.where(losses.step <= 2, 0.0, found)
