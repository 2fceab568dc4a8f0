"""Reparametrization and the scale of a loss; and that only meta-training sees them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from augmented import sgd, step, unvaried, varied
from problems import linear_regression
from trainers import small_mlp

from lopt import prng
from lopt.base import LearnedOptimizer
from lopt.unroll import unroll

LEVELS = ("global", "tensor", "parameter")


@pytest.mark.parametrize("keys", [{}, {"reparam_range": (0.5, 2.0)}])
def test_a_task_that_does_not_vary_is_the_same_object(keys):
    task = small_mlp()
    assert varied(task, **keys) is task


def test_tasks_of_the_same_functions_share_theirs_again():
    keys = {"reparametrize": "tensor", "permute_labels": True}
    one, other = (varied(small_mlp(data_seed=seed), **keys) for seed in (0, 1))
    assert one.loss is other.loss and one.init is other.init and one.batch is other.batch
    assert varied(small_mlp(), reparametrize="global").loss is not one.loss


# --- reparametrization ---


@pytest.mark.parametrize("level", LEVELS)
def test_factors_are_log_uniform_and_as_many_as_asked_for(level):
    task = linear_regression()
    bounds = {"reparam_range": (0.01, 10.0)}
    made = varied(task, reparametrize=level, **bounds)
    init = jax.jit(jax.vmap(lambda key: made.init(key, task.data)))
    params, state = init(jax.random.split(jax.random.key(1), 200))
    factors = jax.tree.leaves(state.draw.factors)
    for factor, param in zip(factors, jax.tree.leaves(params), strict=True):
        each = param.shape if level == "parameter" else (200,)
        assert factor.shape == each
    logs = np.log10(np.concatenate([np.ravel(f) for f in factors]))
    assert -2 <= logs.min() < -1.8 and 0.8 < logs.max() <= 1.0
    deciles = np.quantile(logs, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(deciles, [-1.25, -0.5, 0.25], atol=0.3)
    one, other = np.log(factors[0]).ravel()[:200], np.log(factors[1]).ravel()[:200]
    correlation = np.corrcoef(one, other)[0, 1]
    assert correlation > 0.999 if level == "global" else abs(correlation) < 0.3


@pytest.mark.parametrize("level", LEVELS)
def test_the_model_sees_the_same_and_descent_moves_by_the_square(key, level):
    task = linear_regression()
    made = varied(task, reparametrize=level)
    params, state = jax.jit(made.init)(key, task.data)
    start, factors = unvaried(params, state), state.draw.factors
    as_ever, _ = task.init(prng.split(key, 2)[0], task.data)
    loss, moved, state, _ = step(made, sgd(), params, state, key)
    expected, there, _, _ = step(task, sgd(), start, (), key)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    end = unvaried(moved, state)
    for name, s in factors.items():
        np.testing.assert_allclose(start[name], as_ever[name], rtol=1e-5)
        change = np.asarray(there[name] - start[name])
        assert np.abs(change).min() > 0 and np.abs(np.log(s)).min() > 1e-3
        np.testing.assert_allclose(
            end[name] - start[name], np.square(s) * change, rtol=1e-3, atol=1e-5
        )


def test_readings_are_of_what_the_model_sees(key):
    task = linear_regression()
    made = varied(task, reparametrize="parameter")
    params, state = jax.jit(made.init)(key, task.data)
    batch = task.eval_batch(task.data, "meta")
    found, _ = jax.jit(made.loss)(params, state, batch, key)
    expected, _ = jax.jit(task.loss)(unvaried(params, state), (), batch, key)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_to_adam_a_factor_is_one_of_the_learning_rate(key):
    task = linear_regression()
    adam = optax.with_extra_args_support(optax.adam(0.01, eps=0.0))
    made = varied(task, reparametrize="tensor")
    params, state = jax.jit(made.init)(key, task.data)
    start = unvaried(params, state)
    _, moved, _, _ = step(made, adam, params, state, key)
    _, there, _, _ = step(task, adam, start, (), key)
    for name in params:
        change = there[name] - start[name]
        np.testing.assert_allclose(moved[name] - params[name], change, rtol=1e-3)


# --- loss scale ---


def follower():
    """Descent by signs, whose state is the last value that it was told."""

    def opt_fn(theta, *, specs=None, num_steps=None):
        del specs, num_steps

        def update(grads, state, params=None, *, value, **extra):
            del state, params, extra
            return jax.tree.map(lambda g: -theta["rate"] * jnp.sign(g), grads), value

        return optax.GradientTransformationExtraArgs(lambda _: jnp.zeros(()), update)

    return LearnedOptimizer(lambda key: {"rate": jnp.asarray(0.03)}, opt_fn)


def test_training_sees_a_scaled_loss(key):
    task = linear_regression()
    made = varied(task, loss_scale=(0.01, 100.0))
    params, state = jax.jit(made.init)(key, task.data)
    c = float(state.draw.loss_scale)
    assert 0.01 < c < 100 and abs(np.log(c)) > 0.1
    optimizer = follower().opt_fn({"rate": 0.0})
    loss, _, _, value = step(made, optimizer, params, state, key)
    _, moved, _, _ = step(made, sgd(), params, state, key)
    expected, there, _, _ = step(task, sgd(), params, (), key)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert float(value) == pytest.approx(c * float(expected), rel=1e-5)
    for name, start in params.items():
        change = np.asarray(there[name] - start)
        scaled = np.asarray(moved[name] - start)
        np.testing.assert_allclose(scaled, c * change, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("meta_split", ["meta", "train"])
def test_the_meta_loss_is_not_scaled(key, meta_split):
    """To descent by signs a positive factor of the loss is nothing."""
    task, lopt = linear_regression(), follower()
    readings, values = [], []
    for bounds in ((2.0, 2.0), (512.0, 512.0)):
        made = varied(task, loss_scale=bounds)
        options = {"meta_split": meta_split, "meta_transform": "raw", "meta_every": 1}
        inner = unroll(made, lopt, length=6, min_steps=6, max_steps=6, **options)
        theta = lopt.init(key)
        run = jax.jit(inner.init)(theta, key, task.data, jnp.int32(6))
        reading, run = jax.jit(inner.advance)(theta, run, key, task.data)
        readings.append(float(reading.loss))
        values.append(float(run.opt_state))
    assert readings[0] == pytest.approx(readings[1], rel=1e-6)
    assert 0.1 < readings[0] < 10
    assert values[1] == pytest.approx(256 * values[0], rel=1e-5)


# --- inputs and labels ---
