"""A loaded optimizer inside of optax's wrappers, as in people's training scripts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from wrapped import (
    IS_MATRIX,
    NAMES,
    NUM_STEPS,
    PARAMS,
    SPECS,
    assert_close,
    loaded,
    loss_fn,
    train,
)
from wrapped import files as make_files

import lopt

files = pytest.fixture(scope="module")(make_files)


@pytest.fixture(scope="module")
def gradient():
    return jax.jit(jax.value_and_grad(loss_fn))(PARAMS)


def test_schedules_clipping_and_decoupled_decay_around_it(files):
    """A step is: the learned one of the clipped gradient, times the rate, and decay."""
    rate, decay, learned = 0.5, 0.1, loaded(files, "layerwise")
    clip = optax.clip_by_global_norm(0.01)
    schedule = optax.linear_schedule(rate, 0.0, NUM_STEPS)
    optimizer = optax.chain(
        clip,
        learned,
        optax.inject_hyperparams(optax.scale)(step_size=schedule),
        optax.add_decayed_weights(-decay, mask=IS_MATRIX),
    )
    params, _, _ = train(optimizer, 1)
    moved, _, _ = train(optax.chain(clip, learned), 1)
    expected = jax.tree.map(
        lambda old, new, m: old + rate * (new - old) - decay * m * old,
        PARAMS,
        moved,
        IS_MATRIX,
    )
    assert_close(params, expected)


@pytest.mark.parametrize("name", NAMES)
def test_partition_trains_a_part_as_if_it_were_alone(name, files, gradient):
    """Matrices by the learned optimizer, given specs of all tensors; vectors by SGD."""
    labels = jax.tree.map(lambda m: "learned" if m else "sgd", IS_MATRIX)
    parts = {"learned": loaded(files, name, specs=SPECS), "sgd": optax.sgd(0.1)}
    params, _, _ = train(optax.partition(parts, labels), 1)
    loss, grads = gradient
    of_matrices, m, g = (
        {k: {"w": tree[k]["w"]} for k in tree} for tree in (SPECS, PARAMS, grads)
    )
    alone = loaded(files, name, specs=of_matrices)
    updates, _ = jax.jit(alone.update)(g, alone.init(m), m, value=loss)
    moved = optax.apply_updates(m, updates)
    bias = PARAMS["in"]["b"] - 0.1 * grads["in"]["b"]
    assert_close(params, {"in": moved["in"] | {"b": bias}, "out": moved["out"]})


def test_specs_are_found_by_name(files, gradient):
    """Width multipliers of 4 and 1: the one update is a quarter of that without specs."""
    loss, grads = gradient
    found = []
    for specs in (SPECS, None):
        optimizer = optax.masked(loaded(files, "adafac_mlp", specs), IS_MATRIX)
        state = optimizer.init(PARAMS)
        found.append(jax.jit(optimizer.update)(grads, state, PARAMS, value=loss)[0])
    with_specs, without = found
    assert_close(with_specs["in"]["w"], without["in"]["w"])
    assert_close(with_specs["out"]["w"], without["out"]["w"] / 4)
    with pytest.raises(ValueError, match=r"`specs` lack `\['out'\]\['w'\]`"):
        loaded(files, "layerwise", {"in": SPECS["in"]}).init(PARAMS)


def test_a_label_that_no_parameter_has(files):
    labels = jax.tree.map(lambda _: "sgd", PARAMS)
    parts = {"learned": loaded(files, "layerwise"), "sgd": optax.sgd(0.1)}
    params, _, _ = train(optax.partition(parts, labels), 2)
    assert_close(params, train(optax.sgd(0.1), 2)[0])


def test_accumulated_gradients_are_one_step(files):
    """`MultiSteps` of two equal gradients is the step of one; the loss gets through."""
    multi = optax.MultiSteps(loaded(files, "layerwise"), every_k_schedule=2)
    params, _, losses = train(multi, 4)
    assert losses[0] == losses[1] != losses[2]
    assert_close(params, train(loaded(files, "layerwise"), 2)[0])


def test_what_is_not_finite_is_left_out(files, gradient):
    optimizer = optax.apply_if_finite(loaded(files, "celo2"), max_consecutive_errors=5)
    state = optimizer.init(PARAMS)
    loss, grads = gradient
    update = jax.jit(optimizer.update)
    bad = jax.tree.map(lambda g: g * jnp.nan, grads)
    none, skipped = update(bad, state, PARAMS, value=loss)
    assert not any(np.any(u) for u in jax.tree.leaves(none))
    after, _ = update(grads, skipped, PARAMS, value=loss)
    assert_close(after, update(grads, state, PARAMS, value=loss)[0])
    assert all(np.any(u) for u in jax.tree.leaves(after))


def test_the_length_may_be_an_injected_hyperparameter(files, gradient):
    loss, grads = gradient
    optimizer = optax.inject_hyperparams(lopt.load)(files["layerwise"], num_steps=5)
    other = optax.inject_hyperparams(lopt.load)(files["layerwise"], num_steps=900)
    update = jax.jit(optimizer.update)
    states = optimizer.init(PARAMS), other.init(PARAMS)
    short, long = (update(grads, s, PARAMS, value=loss)[0] for s in states)
    plain = lopt.load(files["layerwise"], num_steps=900)
    expected, _ = jax.jit(plain.update)(grads, plain.init(PARAMS), PARAMS, value=loss)
    assert_close(long, expected)
    assert np.any(short["in"]["w"] != long["in"]["w"])


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_parameters_have_a_float32_state(name, files, gradient):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    optimizer = loaded(files, name)
    before = jax.eval_shape(optimizer.init, half)
    changes, after = jax.eval_shape(optimizer.update, half, before, half, value=1.0)
    assert {u.dtype for u in jax.tree.leaves(changes)} == {jnp.dtype(jnp.bfloat16)}
    assert jax.tree.map(lambda x: x.dtype, before) == jax.tree.map(
        lambda x: x.dtype, after
    )
    dtypes = {x.dtype for x in jax.tree.leaves(after) if x.ndim}
    assert dtypes == {jnp.dtype(jnp.float32)}


def test_bfloat16_updates_are_the_float32_ones_rounded(files, gradient):
    half, grads = (
        jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)
        for tree in (PARAMS, gradient[1])
    )
    optimizer = loaded(files, "celo2")
    update = jax.jit(optimizer.update)
    rounded, _ = update(grads, optimizer.init(half), half)
    p, g = (jax.tree.map(lambda x: x.astype(jnp.float32), t) for t in (half, grads))
    exact, _ = update(g, optimizer.init(p), p)
    expected = jax.tree.map(lambda u: u.astype(jnp.bfloat16), exact)
    assert_close(rounded, expected, rtol=8e-3)


def test_a_loss_that_a_wrapper_drops_is_asked_for(files):
    optimizer = loaded(files, "layerwise")
    state = jax.eval_shape(optimizer.init, PARAMS)
    with pytest.raises(TypeError, match=r"reads the loss.*value=loss"):
        jax.eval_shape(optimizer.update, PARAMS, state, PARAMS)
    with pytest.raises(ValueError, match=r"scalar, got shape \[16\]"):
        jax.eval_shape(optimizer.update, PARAMS, state, PARAMS, value=jnp.ones(16))
