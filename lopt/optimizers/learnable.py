"""Hand-designed optimizers whose hyperparameters are meta-learned.

Each hyperparameter is stored as the logarithm of what must stay positive, so that steps
of equal size in theta are equal ratios: of the learning rate, of 1 - β, of ε. With specs,
steps have their muP multipliers.

References:
  LearnableSGD, LearnableSGDM and LearnableAdam of google/learned_optimization, 2022,
  whose updates these reproduce. Momentum: Polyak, 1964; Adam: Kingma, Ba, 2015, arXiv
  1412.6980.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from lopt import checks, features, mup
from lopt.base import ROLES, Array, LearnedOptimizer, PyTree


class LearnableState(NamedTuple):
    """The accumulators of every tensor: none, one trace, or two moments."""

    step: Array  # shape=[], int32
    accumulators: tuple[PyTree, ...]  # shape=[*s] for each tensor


def learnable_sgd(
    *, learning_rate: float = 0.01, per_role: bool = False
) -> LearnedOptimizer:
    """Gradient descent: p ← p - lr g.

    Args:
      learning_rate: starting value.
      per_role: whether every role of tensors learns a value of its own.
    """

    checks.check_positive(learning_rate=learning_rate)

    def step(values, count, g):
        del count
        return (), jnp.exp(values["log_lr"]) * g

    initial = {"log_lr": math.log(learning_rate)}
    return _learnable(initial, 0, step, "gradient", per_role)


def learnable_sgdm(
    *, learning_rate: float = 0.01, momentum: float = 0.9, per_role: bool = False
) -> LearnedOptimizer:
    """Gradient descent with momentum: z ← g + β z, p ← p - lr z.

    Args:
      learning_rate: starting value.
      momentum: starting value of β.
      per_role: whether every role of tensors learns values of its own.
    """
    checks.check_positive(learning_rate=learning_rate)
    checks.check_decays(momentum=momentum)
    initial = {
        "log_lr": math.log(learning_rate),
        "log_one_minus_momentum": math.log(1.0 - momentum),
    }

    def step(values, count, g, z):
        del count
        z = g + (1.0 - jnp.exp(values["log_one_minus_momentum"])) * z
        return (z,), jnp.exp(values["log_lr"]) * z

    return _learnable(initial, 1, step, "gradient", per_role)


def learnable_adam(
    *,
    learning_rate: float = 0.001,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 1e-8,
    per_role: bool = False,
) -> LearnedOptimizer:
    """Adam: p ← p - lr μ̂ / (√(ν̂ + eps_root) + ε), moments corrected for their start.

    Args:
      learning_rate: starting value.
      b1: starting value of the decay of μ.
      b2: starting value of the decay of ν.
      eps: starting value of ε.
      eps_root: a constant, not learned; keeps the meta-gradient of the root finite.
      per_role: whether every role of tensors learns values of its own.
    """
    checks.check_positive(learning_rate=learning_rate, eps=eps)
    checks.check_decays(b1=b1, b2=b2)
    initial = {
        "log_lr": math.log(learning_rate),
        "log_one_minus_b1": math.log(1.0 - b1),
        "log_one_minus_b2": math.log(1.0 - b2),
        "log_eps": math.log(eps),
    }

    def step(values, count, g, mu, nu):
        b1 = 1.0 - jnp.exp(values["log_one_minus_b1"])
        b2 = 1.0 - jnp.exp(values["log_one_minus_b2"])
        mu = b1 * mu + (1.0 - b1) * g
        nu = b2 * nu + (1.0 - b2) * g * g
        root = jnp.sqrt(nu / (1.0 - b2**count) + eps_root) + jnp.exp(values["log_eps"])
        return (mu, nu), jnp.exp(values["log_lr"]) * mu / (1.0 - b1**count) / root

    return _learnable(initial, 2, step, "entrywise", per_role)


def _learnable(
    initial: dict[str, float],
    num_accumulators: int,
    step_fn: Callable[..., tuple[tuple[Array, ...], Array]],
    kind: mup.Kind,
    per_role: bool,
) -> LearnedOptimizer:
    """The optimizer that applies `step_fn` to every tensor.

    Args:
      initial: starting values of theta.
      num_accumulators: how many arrays a tensor's state has.
      step_fn: `(values, count [] from 1, gradient, *accumulators) -> (accumulators,
        step)`, the step to be subtracted.
      kind: of the muP multiplier that the step gets where there are specs.
      per_role: whether theta has a value for each of `ROLES` instead of one for all.
    """

    def init(key):
        del key
        shape = (len(ROLES),) if per_role else ()
        return {
            name: jnp.full(shape, value, jnp.float32) for name, value in initial.items()
        }

    def opt_fn(theta, *, specs=None, num_steps=None):
        del num_steps

        def values(params):
            """A dict of scalars for every tensor."""
            if not per_role:
                return jax.tree.map(lambda _: theta, params)
            known = mup.infer_specs(params) if specs is None else specs
            return jax.tree.map(
                lambda _, spec: {k: v[ROLES.index(spec.role)] for k, v in theta.items()},
                params,
                known,
            )

        def init_fn(params):
            zeros = jax.tree.map(
                lambda p: jnp.zeros_like(features.at_least_float32(p)), params
            )
            return LearnableState(jnp.zeros([], jnp.int32), (zeros,) * num_accumulators)

        def update_fn(updates, state, params=None, **extra_args):
            del extra_args
            step = jnp.asarray(optax.safe_increment(state.step))
            leaves, treedef = jax.tree.flatten(updates)
            columns = [jax.tree.leaves(a) for a in state.accumulators]
            results = [
                step_fn(v, step.astype(jnp.float32), features.at_least_float32(g), *acc)
                for v, g, *acc in zip(
                    treedef.flatten_up_to(values(updates)), leaves, *columns, strict=True
                )
            ]
            multipliers = jax.tree.leaves(mup.update_multipliers(specs, kind, updates))
            updates = [
                (-m * u).astype(g.dtype)
                for m, (_, u), g in zip(multipliers, results, leaves, strict=True)
            ]
            return treedef.unflatten(updates), LearnableState(
                step,
                tuple(
                    treedef.unflatten([acc[i] for acc, _ in results])
                    for i in range(num_accumulators)
                ),
            )

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)

    return LearnedOptimizer(init, opt_fn)
