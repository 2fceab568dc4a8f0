"""Noise, labels and batches of varied examples, frozen tensors, and what is refused."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from augmented import looker, unvaried, varied
from problems import linear_regression, quadratic
from trainers import small_mlp

from lopt import prng
from lopt.config import BrokenRule
from lopt.families.quadratic import quadratic as noisy_quadratic
from lopt.families.transformer import transformer
from lopt.finetuning.start import names, places, started
from lopt.own_task import task_from


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
