"""A loaded optimizer of parameters that are spread over two devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from wrapped import PARAMS, assert_close, loaded, loss_fn
from wrapped import files as make_files

files = pytest.fixture(scope="module")(make_files)

# Two tensors of one shape, sharded differently, are stacked with each other.
LAYOUT = {"in": {"w": P(None, "d"), "b": P("d")}, "out": {"w": P("d", None)}}
WITH_TWIN = PARAMS | {"twin": {"w": 0.5 * PARAMS["in"]["w"]}}
TWIN_LAYOUT = LAYOUT | {"twin": {"w": P("d", None)}}


def spread(params, layout, kind):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(kind,))
    return jax.tree.map(
        lambda x, p: jax.device_put(x, NamedSharding(mesh, p)), params, layout
    )


def halved(tree):
    """Shapes of the arrays of which each of two devices has a half."""
    return sorted(x.shape for x in jax.tree.leaves(tree) if is_halved(x))


def is_halved(x):
    return len(x.sharding.device_set) == 2 and not x.sharding.is_fully_replicated


def whole(optimizer, grads, params):
    update = jax.jit(optimizer.update)
    return update(grads, optimizer.init(params), params, value=jnp.float32(2.0))


@pytest.fixture(scope="module")
def grads():
    return jax.jit(jax.grad(loss_fn))(PARAMS) | {"twin": {"w": PARAMS["in"]["w"]}}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("layerwise", AxisType.Explicit),
        ("celo2", AxisType.Auto),
        pytest.param("layerwise", AxisType.Auto, marks=pytest.mark.slow),
        pytest.param("adafac_mlp", AxisType.Auto, marks=pytest.mark.slow),
        pytest.param("adafac_mlp", AxisType.Explicit, marks=pytest.mark.slow),
        pytest.param("celo2", AxisType.Explicit, marks=pytest.mark.slow),
    ],
)
def test_the_state_inherits_the_sharding_and_norms_are_global(name, kind, files, grads):
    """The updates are the unsharded ones: no norm is of one device's half."""
    params, g = (spread(x, TWIN_LAYOUT, kind) for x in (WITH_TWIN, grads))
    optimizer = loaded(files, name)
    state = optimizer.init(params)
    large = [x for x in jax.tree.leaves(state) if x.size >= PARAMS["out"]["w"].size]
    assert large and all(is_halved(x) for x in large)
    updates, after = jax.jit(optimizer.update)(g, state, params, value=jnp.float32(2.0))
    assert set(halved(state)) <= set(halved(after))  # jax may share out more
    if kind == AxisType.Explicit:
        assert halved(state) == halved(after)
        shardings = jax.tree.map(lambda x: jax.typeof(x).sharding, (updates, params))
        assert shardings[0] == shardings[1]
    expected, _ = whole(optimizer, grads, WITH_TWIN)
    assert_close(jax.device_get(updates), jax.device_get(expected), rtol=1e-4)


def test_a_state_made_inside_of_jit_on_an_explicit_mesh(files):
    params = spread(PARAMS, LAYOUT, AxisType.Explicit)
    optimizer = loaded(files, "adafac_mlp")
    with jax.set_mesh(params["in"]["w"].sharding.mesh):
        inside, outside = jax.jit(optimizer.init)(params), optimizer.init(params)
    assert halved(inside) == halved(outside) != []


def test_a_loss_function_as_extra_argument_on_an_explicit_mesh(files):
    params = spread(PARAMS, LAYOUT, AxisType.Explicit)
    optimizer = loaded(files, "layerwise")
    state = jax.eval_shape(optimizer.init, params)
    jax.eval_shape(
        lambda g, s: optimizer.update(g, s, params, value=1.0, value_fn=loss_fn),
        params,
        state,
    )
