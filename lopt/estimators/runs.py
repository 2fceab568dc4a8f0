"""Inner runs that outlive a call: one a particle, out of step with one another."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lopt import prng
from lopt.base import Array, Data, MetaParams, PRNGKey, Unroll, UnrollState
from lopt.config import BrokenRule


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raises `BrokenRule` unless the option `name` is at least so many."""
    if value < least:
        raise BrokenRule(name, f"be at least {least}", value)


class ParticleKeys(NamedTuple):
    """For what particles draw in one call; of one particle, or [N]."""

    noise: PRNGKey
    length: PRNGKey  # of a run that starts
    cut: PRNGKey  # of the very first run
    init: PRNGKey
    data: PRNGKey


def particle_keys(key: PRNGKey, num: int) -> ParticleKeys:
    """Keys [num]."""
    return ParticleKeys(*prng.split(key, len(ParticleKeys._fields), num))


def unstarted(
    unroll: Unroll, theta: MetaParams, key: PRNGKey, data: Data, *shape: int
) -> UnrollState:
    """Runs of length 0, leaves [*shape, ...]: over, so that the next call starts them.

    Nothing is computed here, and so nothing is compiled.
    """
    num_steps = jnp.zeros((), jnp.int32)
    shapes = jax.eval_shape(unroll.init, theta, key, data, num_steps)
    return jax.tree.map(lambda x: jnp.zeros((*shape, *x.shape), x.dtype), shapes)


def started(
    unroll: Unroll,
    theta: MetaParams,
    run: UnrollState,
    keys: ParticleKeys,
    data: Data,
    progress: Array,
) -> UnrollState:
    """The run, or a new one where it is over.

    The very first run is cut short after a truncation out of 1 … T/K, all equally likely,
    which puts the particles out of step with one another; without it all would be young,
    or old, together. A cut run is a short run in every respect: it knows its length.
    """
    num_steps = unroll.draw_num_steps(keys.length, progress)
    longest = num_steps // unroll.length
    cut = 1 + (prng.bits(keys.cut) % longest.astype(jnp.uint32)).astype(jnp.int32)
    is_first = run.num_steps == 0
    num_steps = jnp.where(is_first, cut * unroll.length, num_steps)
    fresh = unroll.init(theta, keys.init, data, num_steps)
    is_over = over(run)
    return jax.tree.map(lambda a, b: jnp.where(is_over, a, b), fresh, run)


def over(runs: UnrollState) -> Array:
    """Which runs are at their end."""
    return runs.step >= runs.num_steps


def ended(runs: UnrollState, where: Array) -> UnrollState:
    """The runs, those at `where` (as many axes as `over` has, or fewer) at their end."""
    where = where.reshape(where.shape + (1,) * (runs.step.ndim - where.ndim))
    return runs._replace(step=jnp.where(where, runs.num_steps, runs.step))


def select(condition: Array, new, old):
    """For each particle, `new` where the condition [N] holds, else `old`."""

    def pick(a, b):
        return jnp.where(condition.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, new, old)
