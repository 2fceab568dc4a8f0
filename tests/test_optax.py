"""A loaded optimizer inside of optax's wrappers, as in people's training scripts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from wrapped import NUM_STEPS, PARAMS, SPECS, assert_close, files, loaded, train

import lopt

FILES = pytest.fixture(scope="module")(files)

is_matrix = jax.tree.map(lambda x: x.ndim > 1, PARAMS)


@pytest.fixture(params=["layerwise", "adafac_mlp", "celo2"])
def name(request):
    return request.param


def test_schedules_clipping_and_decoupled_decay_around_it(name, FILES):
    """One step by hand: clip, learned update, times the schedule, minus the decay."""
    rate, decay = 0.5, 0.1
    optimizer = optax.chain(
        optax.clip_by_global_norm(0.01),
        loaded(FILES, name),
        optax.inject_hyperparams(optax.scale)(
            step_size=optax.linear_schedule(rate, 0.0, NUM_STEPS)
        ),
        optax.masked(optax.add_decayed_weights(-decay), is_matrix),
    )
    params, losses = train(optimizer, 1)
    bare = loaded(FILES, name)
    clipped = optax.clip_by_global_norm(0.01)
    moved, _ = train(optax.chain(clipped, bare), 1)
    expected = jax.tree.map(
        lambda old, new, m: old + rate * (new - old) - decay * m * old,
        PARAMS,
        moved,
        is_matrix,
    )
    assert_close(params, expected)
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("specs", [None, SPECS])
def test_partition_trains_each_part_as_if_it_were_alone(name, specs, FILES):
    """Matrices by the learned optimizer, vectors by SGD; with specs of all tensors."""
    labels = jax.tree.map(lambda m: "learned" if m else "sgd", is_matrix)
    parts = {"learned": loaded(FILES, name, specs=specs), "sgd": optax.sgd(0.1)}
    params, _ = train(optax.partition(parts, labels), 1)
    matrices = {k: {"w": x["w"]} for k, x in PARAMS.items()}
    known = None if specs is None else {k: {"w": x["w"]} for k, x in specs.items()}
    grads, loss = gradient(PARAMS)
    own = loaded(FILES, name, specs=known)
    given = {k: {"w": x["w"]} for k, x in grads.items()}
    updates, _ = own.update(given, own.init(matrices), matrices, value=loss)
    for layer in PARAMS:
        assert_close(params[layer]["w"], PARAMS[layer]["w"] + updates[layer]["w"])
        assert_close(params[layer]["b"], PARAMS[layer]["b"] - 0.1 * grads[layer]["b"])


def gradient(params):
    from wrapped import loss_fn

    loss, grads = jax.value_and_grad(loss_fn)(params)
    return grads, loss


def test_specs_are_found_by_name_and_change_what_is_done(FILES):
    mask = optax.masked(loaded(FILES, "layerwise", specs=SPECS), is_matrix)
    with_specs, _ = train(mask, 1)
    without, _ = train(optax.masked(loaded(FILES, "layerwise"), is_matrix), 1)
    assert np.any(with_specs["out"]["w"] != without["out"]["w"])
    others = {"in": SPECS["in"]}
    with pytest.raises(ValueError, match=r"`specs` lack `\['out'\]\['b'\]`"):
        loaded(FILES, "layerwise", specs=others).init(PARAMS)


def test_a_label_that_no_parameter_has(name, FILES):
    labels = jax.tree.map(lambda _: "sgd", PARAMS)
    parts = {"learned": loaded(FILES, name), "sgd": optax.sgd(0.1)}
    params, _ = train(optax.partition(parts, labels), 2)
    assert_close(params, train(optax.sgd(0.1), 2)[0])


def test_accumulated_gradients_are_one_step(name, FILES):
    """`MultiSteps` of two equal gradients is the step of one; the loss gets through."""
    multi = optax.MultiSteps(loaded(FILES, name), every_k_schedule=2)
    params, losses = train(multi, 4)
    expected, _ = train(loaded(FILES, name), 2)
    assert losses[0] == losses[1] != losses[2]
    assert_close(params, expected)


def test_what_is_not_finite_is_left_out(name, FILES):
    optimizer = optax.apply_if_finite(loaded(FILES, name), max_consecutive_errors=5)
    state = optimizer.init(PARAMS)
    grads, loss = gradient(PARAMS)
    update = jax.jit(optimizer.update)
    bad = jax.tree.map(lambda g: g * jnp.nan, grads)
    none, skipped = update(bad, state, PARAMS, value=loss)
    assert not any(np.any(u) for u in jax.tree.leaves(none))
    after, _ = update(grads, skipped, PARAMS, value=loss)
    at_once, _ = update(grads, state, PARAMS, value=loss)
    assert_close(after, at_once)
    assert any(np.any(u) for u in jax.tree.leaves(after))


def test_the_length_may_be_an_injected_hyperparameter(FILES):
    optimizer = optax.inject_hyperparams(lopt.load)(FILES["layerwise"], num_steps=20)
    params, _ = train(optimizer, 2)
    assert_close(params, train(loaded(FILES, "layerwise"), 2)[0])


def test_bfloat16_parameters_have_a_float32_state(name, FILES):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    optimizer = loaded(FILES, name)
    state = optimizer.init(half)
    grads, loss = gradient(half)
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(jnp.bfloat16)}
    updates, after = jax.jit(optimizer.update)(grads, state, half, value=loss)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    for tree in (state, after):
        dtypes = {x.dtype for x in jax.tree.leaves(tree) if jnp.ndim(x)}
        assert dtypes == {jnp.dtype(jnp.float32)}
    full = jax.tree.map(lambda x: x.astype(jnp.float32), (grads, half))
    exact, _ = optimizer.update(full[0], optimizer.init(PARAMS), full[1], value=loss)
    for u, e in zip(jax.tree.leaves(updates), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(u.astype(np.float32), e, rtol=1e-2, atol=1e-6)


def test_a_loss_that_a_wrapper_drops_is_asked_for(FILES):
    optimizer = loaded(FILES, "layerwise")
    grads, _ = gradient(PARAMS)
    state = optimizer.init(PARAMS)
    with pytest.raises(TypeError, match="reads the loss.*value=loss"):
        optimizer.update(grads, state, PARAMS)
    with pytest.raises(ValueError, match=r"scalar, got shape \[16\]"):
        optimizer.update(grads, state, PARAMS, value=jnp.ones(16))
