"""Small unrolls whose meta-gradient is known exactly."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems import quadratic

from lopt.base import LearnedOptimizer
from lopt.unroll import unroll

T = 12
SIGMA = 0.02


def learnable_sgd(rate: float = 0.2) -> LearnedOptimizer:
    """Gradient descent with rates exp(log_rate), one a coordinate."""

    def init(key):
        del key
        return {"log_rate": jnp.log(jnp.asarray([rate, rate]))}

    def opt_fn(theta, *, specs=None, num_steps=None):
        del specs, num_steps
        rates = jnp.exp(theta["log_rate"])

        def update(grads, state, params=None, **extra):
            del params, extra
            return jax.tree.map(lambda g: -rates * g, grads), state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    return LearnedOptimizer(init, opt_fn)


def inert() -> LearnedOptimizer:
    """Gradient descent whose meta-parameter does nothing."""

    def opt_fn(theta, *, specs=None, num_steps=None):
        del theta, specs, num_steps
        return optax.with_extra_args_support(optax.sgd(0.1))

    return LearnedOptimizer(lambda key: {"unused": jnp.ones(3)}, opt_fn)


def fixed_start(noise: float = 0.0):
    task = quadratic(curvature=(0.5, 2.0), noise=noise)
    start = jnp.asarray([2.0, -1.5])
    return replace(task, init=lambda key, data: ({"w": start}, ()))


def make_unroll(length: int, *, task=None, lopt=None, num_steps: int = T, **options):
    task = fixed_start() if task is None else task
    lopt = learnable_sgd() if lopt is None else lopt
    options = {
        "meta_split": "train",
        "meta_every": 1,
        "meta_transform": "clipped",
    } | options
    return task, unroll(
        task, lopt, length=length, min_steps=num_steps, max_steps=num_steps, **options
    )


def exact_gradient(length: int, key, **options):
    """jax.grad of the meta-loss of one whole run, by the unroll itself."""
    task, inner = make_unroll(length, **options)
    theta = learnable_sgd().init(key)

    def meta_loss(theta):
        run = inner.init(theta, key, task.data, jnp.int32(T))
        parts = []
        for _ in range(T // length):
            reading, run = inner.advance(theta, run, key, task.data)
            parts.append(reading.loss)
        return jnp.mean(jnp.stack(parts))

    return np.asarray(jax.grad(meta_loss)(theta)["log_rate"])
