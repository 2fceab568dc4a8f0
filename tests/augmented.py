"""Augmented tasks, and a step on them, for tests."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lopt import prng
from lopt.augmentation import augment
from lopt.config import AugmentConfig
from lopt.unroll import inner_step


def varied(task, **keys):
    return augment(task, AugmentConfig(**keys))


def step(task, optimizer, params, state, key):
    """One inner step."""

    @jax.jit
    def run(params, state, data):
        opt_state = optimizer.init(params)
        keys = prng.split(key, 2)
        return inner_step(task, optimizer, params, state, opt_state, keys, data)

    return run(params, state, task.data)


def sgd(rate=0.5):
    return optax.with_extra_args_support(optax.sgd(rate))


def unvaried(params, state):
    """What a model without a state of its own sees of the parameters."""
    assert state.model_state == ()
    return jax.tree.map(np.multiply, params, state.draw.factors)


def looker(task, **keys):
    """`(key, split, run) ->` a minibatch, what the model sees of it, the run's draw."""

    def loss(params, model_state, batch, key):
        return jnp.zeros(()), (model_state, {"batch": batch})

    made = varied(replace(task, loss=loss), **keys)

    @partial(jax.jit, static_argnames=("split", "fixed"))
    def look(key, split, run, fixed=False):
        params, state = made.init(run, made.data)
        draw = made.batch(key, made.data, split)
        batch = made.eval_batch(made.data, split) if fixed else draw
        _, (_, metrics) = made.loss(params, state, batch, key)
        given = batch.batch if split == "train" and not fixed else batch
        return given, metrics["batch"], state.draw

    return look
