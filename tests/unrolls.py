"""Small unrolls whose meta-gradient is known exactly."""

import inspect
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from problems import quadratic

from lopt.base import LearnedOptimizer
from lopt.estimators import ESTIMATORS
from lopt.unroll import unroll

T = 12
SIGMA = 0.02


def two_rates(rate: float = 0.2) -> LearnedOptimizer:
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


def two_rates_of_the_start() -> LearnedOptimizer:
    """`two_rates` with the rates that a run started with."""

    def opt_fn(theta, *, specs=None, num_steps=None):
        del specs, num_steps

        def update(grads, rates, params=None, **extra):
            del params, extra
            return jax.tree.map(lambda g: -rates * g, grads), rates

        return optax.GradientTransformationExtraArgs(
            lambda params: jnp.exp(theta["log_rate"]), update
        )

    return LearnedOptimizer(two_rates().init, opt_fn)


def inert() -> LearnedOptimizer:
    """Gradient descent whose meta-parameter does nothing."""

    def opt_fn(theta, *, specs=None, num_steps=None):
        del theta, specs, num_steps
        return optax.with_extra_args_support(optax.sgd(0.1))

    return LearnedOptimizer(lambda key: {"unused": jnp.ones(3)}, opt_fn)


def half_inert() -> LearnedOptimizer:
    """`two_rates` and a meta-parameter that does nothing."""
    active = two_rates()

    def opt_fn(theta, *, specs=None, num_steps=None):
        return active.opt_fn({"log_rate": theta["log_rate"]})

    return LearnedOptimizer(
        lambda key: {**active.init(key), "unused": jnp.ones(2)}, opt_fn
    )


def fixed_start(noise: float = 0.0):
    task = quadratic(curvature=(0.5, 2.0), noise=noise)
    start = jnp.asarray([2.0, -1.5])
    return replace(task, init=lambda key, data: ({"w": start}, ()))


def lucky_start():
    """`fixed_start`; or, for every other key, one from which the loss overflows."""
    task = fixed_start()
    start, _ = task.init(None, task.data)

    def init(key, data):
        scale = jnp.where(jax.random.bernoulli(key), 1.0, 1e30)
        return {"w": scale * start["w"]}, ()

    return replace(task, init=init)


def make_unroll(length: int, *, task=None, lopt=None, num_steps: int = T, **options):
    task = fixed_start() if task is None else task
    lopt = two_rates() if lopt is None else lopt
    options = {
        "meta_split": "train",
        "meta_every": 1,
        "meta_transform": "clipped",
        "min_steps": num_steps,
        "max_steps": num_steps,
    } | options
    return task, unroll(task, lopt, length=length, **options)


def exact_gradient(length: int, key, *, num_steps: int = T, **options):
    """jax.grad of the meta-loss of one whole run, by the unroll itself."""
    task, inner = make_unroll(length, **options)
    theta = two_rates().init(key)

    def meta_loss(theta):
        run = inner.init(theta, key, task.data, jnp.int32(num_steps))
        parts = []
        for _ in range(num_steps // length):
            reading, run = inner.advance(theta, run, key, task.data)
            parts.append(reading.loss)
        return jnp.mean(jnp.stack(parts))

    return np.asarray(jax.jit(jax.grad(meta_loss))(theta)["log_rate"])


def estimator_of(name: str, inner, num: int = 4, **options):
    """An estimator with so many pairs, or twice as many runs; SIGMA, and no clipping."""
    factory = ESTIMATORS[name]
    known = inspect.signature(factory).parameters
    defaults = {
        "num_pairs": num,
        "num_runs": 2 * num,
        "population": 2 * num,
        "sigma": SIGMA,
        "clip_norm": 0.0,
    }
    return factory(inner, **{k: v for k, v in defaults.items() if k in known} | options)


def calls(estimator, task, theta, key, num: int):
    """The results of so many calls, stacked; and the states after each."""

    def step(state, key):
        result, state = estimator.estimate(theta, state, key, task.data, jnp.float32(0))
        return state, (result, state)

    init_key, key = jax.random.split(key)
    state = estimator.init(theta, init_key, task.data)
    return jax.lax.scan(step, state, jax.random.split(key, num))[1]


def replicates(estimator, task, theta, key, *, skip: int, num: int, copies: int):
    """Gradients of `num` calls after others, [copies, num, ...]; copies independent."""

    def one(key):
        results, _ = calls(estimator, task, theta, key, skip + num)
        return jax.tree.map(lambda g: g[skip:], results.grad)

    grads = jax.jit(jax.vmap(one))(jax.random.split(key, copies))
    return jax.tree.map(np.asarray, grads)


def mean_and_error(samples):
    """The mean over the first axis, and its standard error."""
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
