"""A loaded optimizer in the training loops of Flax and Equinox, and in checkpoints."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exported import assert_same_bits
from wrapped import PARAMS, assert_close, loaded, loss_fn, stepper, train, x_16x8
from wrapped import files as make_files

import lopt

files = pytest.fixture(scope="module")(make_files)

X = jnp.float32(x_16x8)
Y = jnp.sin(X[:, :4])


def package(name):
    return pytest.importorskip(name, reason=f"{name} is not installed")


def dense(params):
    """The loss of a linear layer in plain jax: what the packages' models are."""
    return jnp.mean(jnp.square(X @ params["kernel"] + params["bias"][None] - Y))


START = {"bias": jnp.zeros(4), "kernel": PARAMS["out"]["w"]}


@pytest.mark.parametrize(
    "name", ["adafac_mlp", pytest.param("layerwise", marks=pytest.mark.slow)]
)
def test_nnx_optimizer(name, files):
    """Its optimizer is initialized with `Variable`s and updated with arrays."""
    nnx = package("flax.nnx")
    model = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
    model.kernel[...] = START["kernel"]
    specs = lopt.param_specs(nnx.state(model, nnx.Param))
    optimizer = nnx.Optimizer(model, loaded(files, name, specs), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        def loss_fn(model):
            return jnp.mean(jnp.square(model(X) - Y))

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, grads, value=loss)
        return loss

    losses = [float(step(model, optimizer)) for _ in range(2)]
    specs = lopt.param_specs(START)
    params, _, expected = train(loaded(files, name, specs), 2, START, dense)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert_close(model.kernel[...], params["kernel"])
    assert_close(model.bias[...], params["bias"])


def test_linen_train_state(files):
    """`apply_gradients` drops the loss, and is told so; the README's lines do not."""
    linen, train_state = package("flax.linen"), package("flax.training.train_state")
    serialization = package("flax.serialization")
    model = linen.Dense(4)
    state = train_state.TrainState.create(
        apply_fn=model.apply, params=START, tx=loaded(files, "layerwise")
    )
    with pytest.raises(TypeError, match="reads the loss"):
        jax.eval_shape(lambda s: s.apply_gradients(grads=s.params), state)

    @jax.jit
    def step(state):
        def loss_fn(params):
            return jnp.mean(jnp.square(state.apply_fn({"params": params}, X) - Y))

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        updates, opt_state = state.tx.update(
            grads, state.opt_state, state.params, value=loss
        )
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state)

    new, state = state, step(state)
    restored = serialization.from_bytes(new, serialization.to_bytes(state))
    assert_same_bits(restored, state)
    assert_same_bits(step(restored), step(state))
    expected, _, _ = train(loaded(files, "layerwise"), 2, START, dense)
    assert_close(step(state).params, expected)


def test_equinox(files):
    eqx = package("equinox")
    model = eqx.nn.MLP(8, 4, 8, depth=1, key=jax.random.key(0))
    arrays = eqx.filter(model, eqx.is_inexact_array)
    specs = lopt.param_specs(arrays, output_axis=0)
    optimizer = loaded(files, "layerwise", specs)

    @eqx.filter_jit
    def step(model, state):
        def loss_fn(model):
            return jnp.mean(jnp.square(jax.vmap(model)(X) - Y))

        loss, grads = eqx.filter_value_and_grad(loss_fn)(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = optimizer.update(grads, state, params, value=loss)
        return eqx.apply_updates(model, updates), state, loss

    state, losses = optimizer.init(arrays), []
    for _ in range(4):
        model, state, loss = step(model, state)
        losses.append(float(loss))
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    "name", ["layerwise", pytest.param("celo2", marks=pytest.mark.slow)]
)
def test_orbax_resumes_to_the_same_bits(name, files, tmp_path):
    import orbax.checkpoint as ocp

    optimizer = loaded(files, name)
    step = stepper(optimizer)
    saved = SimpleNamespace(params=PARAMS, state=optimizer.init(PARAMS))
    for _ in range(2):
        saved.params, saved.state, _ = step(saved.params, saved.state)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "2", vars(saved))
        checkpointer.wait_until_finished()
        new = {"params": PARAMS, "state": optimizer.init(PARAMS)}
        template = jax.tree.map(ocp.utils.to_shape_dtype_struct, new)
        found = checkpointer.restore(tmp_path / "2", template)
    assert_same_bits(found, vars(saved))
    straight = step(*step(saved.params, saved.state)[:2])
    resumed = step(*step(found["params"], found["state"])[:2])
    assert_same_bits(resumed, straight)
    assert straight[2] < loss_fn(PARAMS)
