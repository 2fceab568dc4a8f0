"""Runs from beginning to end within one call: what the whole-run estimators share.

All particles of a call have one run length, so that a loop ends when they do. Nothing
outlives a call; the estimators' state is the particles' numbers, from which their keys
are made: so that the work is shared out over devices as the state is.
"""

import jax
import jax.numpy as jnp

from lopt import prng
from lopt.base import Array, Data, MetaParams, PRNGKey, Unroll
from lopt.estimators.antithetic import PairReadings, each_member


def numbered(num: int) -> Array:
    """The state of `num` particles."""
    return jnp.arange(num, dtype=jnp.int32)


def whole_pairs(
    unroll: Unroll,
    theta: MetaParams,
    noise: Array,  # shape=[N, P]
    keys: PRNGKey,  # shape=[N]
    num_steps: Array,
    data: Data,
) -> PairReadings:
    """The meta-losses of whole runs with θ ± ε: the means over their truncations.

    Both members of a pair share initialization and data. Memory does not grow with the
    run's length.
    """

    def start(weights, key):
        return unroll.init(weights, prng.fold_in(key, 0), data, num_steps)

    def truncation(weights, key, run):
        key = prng.fold_in(key, 1 + run.step)
        return unroll.advance(weights, run, key, data)

    def advance(carry):
        step, runs, total, diverged = carry
        reading, runs = each_member(truncation, theta, noise, keys, runs)
        step = step + unroll.length
        return step, runs, total + reading.loss, diverged | reading.diverged

    runs = each_member(start, theta, noise, keys)
    total, diverged = (jnp.zeros(runs.step.shape, kind) for kind in (jnp.float32, bool))
    carry = (jnp.zeros((), jnp.int32), runs, total, diverged)
    carry = jax.lax.while_loop(lambda c: c[0] < num_steps, advance, carry)
    *_, total, diverged = carry
    losses = total * unroll.length / num_steps
    return PairReadings(losses, diverged, losses.size * num_steps)
