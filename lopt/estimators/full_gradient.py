"""Backpropagation through whole runs."""

import jax
import jax.numpy as jnp

from lopt import prng
from lopt.base import (
    Array,
    Data,
    GradientEstimator,
    MetaParams,
    PRNGKey,
    Rematerialize,
    Unroll,
)
from lopt.estimators.backprop import check_clip_norm, clipped, mean_gradient, usable
from lopt.estimators.runs import check_count
from lopt.estimators.tangents import inexact, rebuild
from lopt.estimators.whole import numbered


def full_gradient(
    unroll: Unroll,
    *,
    num_runs: int = 16,
    clip_norm: float = 0.0,
    rematerialize: Rematerialize = "steps",
) -> GradientEstimator:
    """Backpropagation through whole runs: the exact gradient; one call a run.

    g = 1/N Σ_i dL_i/dθ, L_i the meta-loss of a whole run. The state is kept at the
    beginning of each truncation; the rest is computed anew on the way back, so that
    memory grows with T/K + K. All runs of a call have one length. The gradient explodes
    where the inner run is chaotic. A run whose loss or gradient is not finite is left
    out.

    Args:
      unroll: what is estimated on.
      num_runs: N, inner runs.
      clip_norm: largest norm of one run's gradient; 0: no clipping, which would bias it.
      rematerialize: what is computed anew inside a truncation, as
        `lopt.base.Rematerialize` says.

    References:
      Maclaurin, Duvenaud, Adams, Gradient-based hyperparameter optimization through
      reversible learning, 2015, arXiv 1502.03492.
      Chen, Xu, Zhang, Guestrin, Training deep nets with sublinear memory cost, 2016,
      arXiv 1604.06174.
    """
    check_count("num_runs", num_runs)
    check_clip_norm(clip_norm)

    def init(theta, key, data):
        del theta, key, data
        return numbered(num_runs)

    def estimate(theta, numbers, key, data, progress):
        length_key, run_key = prng.split(key, 2)
        num_steps = unroll.draw_num_steps(length_key, progress)
        keys = prng.fold_in(run_key, numbers)
        losses, diverged, grads = jax.vmap(
            lambda k: _run_gradient(unroll, theta, k, num_steps, data, rematerialize)
        )(keys)
        kept = usable(grads, diverged)
        grads = clipped(grads, kept, clip_norm)
        result = mean_gradient(grads, losses, kept, num_runs * num_steps)
        return result, numbers

    return GradientEstimator(init, estimate)


def _run_gradient(
    unroll: Unroll,
    theta: MetaParams,
    key: PRNGKey,
    num_steps: Array,
    data: Data,
    rematerialize: Rematerialize,
) -> tuple[Array, Array, MetaParams]:
    """One run's meta-loss, whether it diverged, and the gradient.

    Forward, the state at the beginning of each truncation is kept in `starts`. Backward,
    a truncation turns the loss's derivative in the state after it into that in the state
    before it (`state_bar`), and adds its part of that in theta (`theta_bar`). The two
    loops are written out, for jax differentiates none whose length it does not know, and
    a longest run that is masked costs as much as if it were run.
    """
    num = num_steps // unroll.length

    def start(theta):
        run = unroll.init(theta, prng.fold_in(key, 0), data, num_steps)
        return inexact(run), run

    def advance(theta, run):
        run_key = prng.fold_in(key, 1 + run.step)
        return unroll.advance(theta, run, run_key, data, rematerialize=rematerialize)

    def forward(carry):
        i, run, starts, total, diverged = carry
        starts = jax.tree.map(lambda all_, x: all_.at[i].set(x), starts, run)
        reading, run = advance(theta, run)
        return i + 1, run, starts, total + reading.loss, diverged | reading.diverged

    def backward(carry):
        i, state_bar, theta_bar = carry
        run = jax.tree.map(lambda all_: all_[i - 1], starts)

        def truncation(theta, leaves):
            reading, after = advance(theta, rebuild(run)(leaves))
            return reading.loss / num, inexact(after)

        (loss, _), pull_back = jax.vjp(truncation, theta, inexact(run))
        step_bar, state_bar = pull_back((jnp.ones_like(loss), state_bar))
        return i - 1, state_bar, jax.tree.map(jnp.add, theta_bar, step_bar)

    leaves, pull_back, run = jax.vjp(start, theta, has_aux=True)
    room = unroll.max_steps // unroll.length
    starts = jax.tree.map(lambda x: jnp.broadcast_to(x, (room, *x.shape)), run)
    zero = jnp.zeros((), jnp.int32)
    carry = (zero, run, starts, jnp.zeros(()), jnp.zeros((), bool))
    carry = jax.lax.while_loop(lambda c: c[0] < num, forward, carry)
    _, _, starts, total, diverged = carry
    bars = jax.tree.map(jnp.zeros_like, (leaves, theta))
    _, state_bar, grad = jax.lax.while_loop(lambda c: c[0] > 0, backward, (num, *bars))
    grad = jax.tree.map(jnp.add, grad, pull_back(state_bar)[0])
    return total / num, diverged, grad
