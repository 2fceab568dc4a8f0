"""Each augmentation against what it says; and that only meta-training sees any."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import linear_regression, quadratic
from trainers import small_mlp

from lopt import prng
from lopt.augmentation import augment
from lopt.base import LearnedOptimizer
from lopt.config import AugmentConfig, BrokenRule
from lopt.families.quadratic import quadratic as noisy_quadratic
from lopt.families.transformer import transformer
from lopt.finetuning.start import names, places, started
from lopt.own_task import task_from
from lopt.unroll import inner_step, unroll

LEVELS = ("global", "tensor", "parameter")


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


# --- off ---


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


def test_noise_is_on_the_inputs_of_minibatches_and_new_in_every_step(key):
    look = looker(small_mlp(batch_size=64), input_noise=0.3)
    added = []
    for step_key in prng.split(key, 2):
        (x, y), (noisy, labels), _ = look(step_key, "train", key)
        np.testing.assert_array_equal(y, labels)
        added.append(np.asarray(noisy) - np.asarray(x))
    for noise in added:
        assert noise.std() == pytest.approx(0.3, rel=0.05) and abs(noise.mean()) < 0.02
    assert abs(np.corrcoef(added[0].ravel(), added[1].ravel())[0, 1]) < 0.1
    for split, fixed in (("meta", False), ("train", True)):
        (x, _), (same, _), _ = look(key, split, key, fixed)
        np.testing.assert_array_equal(x, same)


def test_classes_are_permuted_alike_in_all_splits_of_a_run(key):
    look = looker(small_mlp(batch_size=64), permute_labels=True)
    orders = []
    for run in prng.split(key, 4):
        order = np.asarray(look(key, "train", run)[2].classes)
        for split, fixed in (("train", False), ("train", True), ("meta", True)):
            (x, y), (same, labels), _ = look(key, split, run, fixed)
            np.testing.assert_array_equal(x, same)
            np.testing.assert_array_equal(labels, order[y])
        assert sorted(order) == list(range(10))
        orders.append(tuple(order))
    assert len({*orders}) == 4 and tuple(range(10)) not in orders


def test_permuted_readings_keep_their_running_moments(key):
    """Readings of batch normalization are told from minibatches by their type."""
    task = small_mlp(normalization="batch")
    made = varied(task, permute_labels=True)
    params, state = made.init(key, made.data)
    batch = task.eval_batch(task.data, "meta")
    found, _ = jax.jit(made.loss)(params, state, batch, key)
    relabeled = batch._replace(y=state.draw.classes[batch.y])
    expected, _ = jax.jit(task.loss)(params, state.model_state, relabeled, key)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_a_label_of_one_split_alone_is_a_class(key):
    task = small_mlp()
    data = {s: (x, jnp.minimum(y, 8 + (s == "valid"))) for s, (x, y) in task.data.items()}
    for labels, count in ((data, 10), (data | {"valid": data["test"]}, 9)):
        made = varied(replace(task, data=labels), permute_labels=True)
        _, state = jax.eval_shape(made.init, key, labels)
        assert state.draw.classes.shape == (count,)


# --- number of different examples ---


def test_a_smaller_batch_is_one_of_its_examples_repeated(key):
    """Evenly, with the same noise; the sizes are the divisors, all as likely."""
    look = looker(small_mlp(batch_size=12), min_batch_size=2, input_noise=0.1)
    counts = dict.fromkeys((2, 3, 4, 6, 12), 0)
    for run in prng.split(key, 100):
        (x, y), (repeated, labels), draw = jax.device_get(look(key, "train", run))
        n = int(draw.num_examples)
        counts[n] += 1
        assert len(np.unique(repeated, axis=0)) == n
        np.testing.assert_array_equal(repeated, np.tile(repeated[:n], (12 // n, 1)))
        np.testing.assert_array_equal(labels, np.tile(y[:n], 12 // n))
        assert np.abs(repeated[:n] - x[:n]).max() < 0.6
    assert min(counts.values()) > 8
    (x, _), (same, _), _ = look(key, "meta", key)
    np.testing.assert_array_equal(x, same)


def test_the_gradient_of_a_smaller_batch_is_its_examples(key):
    task = linear_regression(batch_size=8)
    made = varied(task, min_batch_size=2)
    gradient = jax.jit(jax.grad(made.loss, has_aux=True))
    expected = jax.jit(jax.grad(task.loss, has_aux=True))
    init, sizes = jax.jit(made.init), set()
    for run in prng.split(key, 16):
        params, state = init(run, task.data)
        n = int(state.draw.num_examples)
        sizes.add(n)
        drawn = made.batch(run, task.data, "train")
        few = jax.tree.map(lambda a, n=n: a[:n], drawn.batch)
        found, _ = gradient(params, state, drawn, key)
        known, _ = expected(params, (), few, key)
        for name in params:
            np.testing.assert_allclose(found[name], known[name], rtol=1e-4, atol=1e-6)
    assert sizes == {2, 4, 8}


def test_windows_of_text_are_examples_too(key):
    task = transformer(width=8, depth=1, sequence_length=8, batch_size=4)
    look = looker(task, min_batch_size=1)
    sizes = set()
    for run in prng.split(key, 16):
        windows, repeated, draw = look(key, "train", run)
        n = int(draw.num_examples)
        np.testing.assert_array_equal(repeated, np.tile(windows[:n], (4 // n, 1)))
        sizes.add(n)
    assert sizes == {1, 2, 4}


# --- tasks that start from given parameters ---


def test_frozen_tensors_stay_what_they_are(key):
    """And what lies beside them in a batch, and in the data, varies as ever."""
    task = small_mlp(batch_size=8)
    params, _ = task.init(key, task.data)
    tensors = {name: np.asarray(leaf) + 0.5 for name, leaf in names(params).items()}
    chosen = places(task, frozen=["layer_0"], fresh=["layer_1/w"])
    task = started(task, tensors, chosen)
    keys = {"reparametrize": "tensor", "permute_labels": True, "min_batch_size": 2}
    look = looker(task, input_noise=0.1, **keys)
    (frozen, (_, y)), (same, (x, labels)), draw = look(key, "train", key)
    n = int(draw.num_examples)
    assert n < 8  # of this key
    np.testing.assert_array_equal(labels, np.tile(draw.classes[y[:n]], 8 // n))
    np.testing.assert_array_equal(x, np.tile(x[:n], (8 // n, 1)))
    jax.tree.map(np.testing.assert_array_equal, frozen, same)
    assert draw.factors["layer_0"] == {"b": None, "w": None}
    made = varied(task, reparametrize="tensor")
    inner, state = made.init(key, made.data)
    seen = unvaried(inner, state)
    np.testing.assert_allclose(seen["layer_1"]["b"], tensors["layer_1/b"], atol=1e-6)
    batch = made.eval_batch(made.data, "meta")
    found, _ = jax.jit(made.loss)(inner, state, batch, key)
    expected, _ = jax.jit(task.loss)(seen, (), batch, key)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


# --- what a task lacks ---


def labelled(labels):
    """A user's own task on these."""
    x = jnp.ones((len(labels), 2))

    def loss(params, batch, key):
        return jnp.mean(batch[0] @ params["w"]) ** 2

    def init(key):
        return {"w": jnp.ones(2)}

    return task_from(
        name="own", init=init, loss=loss, data=(x, labels), batch_size=7, loss_bound=1.0
    )


@pytest.mark.parametrize(
    ("task", "key", "value", "off", "reason"),
    [
        (quadratic, "input_noise", 0.1, "0.0", "not (x, y)"),
        (quadratic, "permute_labels", True, "false", "integers for y"),
        (linear_regression, "permute_labels", True, "false", "integers for y"),
        (noisy_quadratic, "min_batch_size", 2, "0", "not examples"),
        (transformer, "input_noise", 0.1, "0.0", "floating-point"),
        (transformer, "permute_labels", True, "false", "integers for y"),
        (small_mlp, "min_batch_size", 3, "0", "4 has no proper divisor of at least 3"),
        (small_mlp, "min_batch_size", 5, "0", "no proper divisor"),
        (
            lambda: labelled(-np.ones(20, int)),
            "permute_labels",
            True,
            "false",
            "label -1",
        ),
        (lambda: labelled(np.arange(20)), "min_batch_size", 2, "0", "no proper divisor"),
    ],
)
def test_a_task_that_lacks_what_is_needed_is_refused(task, key, value, off, reason):
    task = task()
    with pytest.raises(BrokenRule) as caught:
        varied(task, **{key: value})
    message = caught.value.message
    assert message.startswith(f"`{key}` must be {off} for task `{task.name}`: ")
    assert reason in message and "\n" not in message
    assert caught.value.hint == f"in its own table: `augment.{key} = {off}`"
