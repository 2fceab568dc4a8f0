"""The contract of every learned optimizer, over the registry and over variants."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import MIXED, TREES, perturbed_theta, random_tree, run

from lopt.bases import BASES
from lopt.optimizers import OPTIMIZERS
from lopt.optimizers.celo import celo
from lopt.optimizers.layerwise import layerwise
from lopt.optimizers.rnn_mlp import rnn_mlp
from lopt.optimizers.velo import velo

VARIANTS = {
    **OPTIMIZERS,
    "celo": lambda: celo(hidden_size=8),
    "velo": lambda: velo(hidden_size=8, num_networks=4),
    "rnn_mlp": lambda: rnn_mlp(hidden_size=8, hidden_sizes=(8,)),
    "layerwise-linear": lambda: layerwise(hidden_sizes=()),
    **{f"layerwise-{b}": lambda b=b: layerwise(bases=("adam", b)) for b in BASES},
}


@pytest.mark.parametrize(
    "shapes, dtype",
    [
        (MIXED, jnp.float32),
        (MIXED, jnp.bfloat16),
        (TREES["vectors"], jnp.float32),
        ({}, jnp.float32),
    ],
    ids=["mixed", "mixed-bfloat16", "vectors", "empty"],
)
@pytest.mark.parametrize("name", VARIANTS)
def test_any_tree_keeps_shapes_and_dtypes(name, shapes, dtype, key):
    lopt = VARIANTS[name]()
    optimizer = lopt.opt_fn(perturbed_theta(lopt, key), num_steps=10)
    params = random_tree(shapes, key, dtype)
    after = run(optimizer, params, key)
    assert jax.tree.structure(after) == jax.tree.structure(params)
    for p, q in zip(jax.tree.leaves(params), jax.tree.leaves(after), strict=True):
        assert p.shape == q.shape and p.dtype == q.dtype
        assert np.all(np.isfinite(np.asarray(q, np.float32)))
        # A small update may be lost in the rounding of bfloat16 parameters.
        if p.size and dtype == jnp.float32:
            assert np.any(np.asarray(p) != np.asarray(q))


@pytest.mark.parametrize("name", VARIANTS)
def test_one_trace_unknown_arguments_and_composition(name, key):
    lopt = VARIANTS[name]()
    traces = []
    params = random_tree(TREES["matrices"], key)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        lopt.opt_fn(perturbed_theta(lopt, key), num_steps=10),
        optax.scale(0.5),
    )

    @jax.jit
    def step(params, state, grads):
        traces.append(1)
        updates, state = optimizer.update(
            grads, state, params, value=jnp.float32(1.0), unheard_of=3
        )
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(3):
        params, state = step(params, state, params)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("layerwise", "mlp", "adafac_mlp") or name.startswith("learnable")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in VARIANTS
    ],
)
def test_jit_and_vmap_change_nothing(name, key):
    lopt = VARIANTS[name]()
    theta = perturbed_theta(lopt, key)
    params = random_tree({"w": (2, 3), "b": (3,)}, key)

    def train(theta, params, jit=False):
        return run(lopt.opt_fn(theta, num_steps=10), params, key, jit=jit)

    plain = train(theta, params)
    jitted = train(theta, params, jit=True)
    both = jax.tree.map(lambda x: jnp.stack([x, x]), (theta, params))
    mapped = jax.jit(jax.vmap(train))(*both)
    for a, b, c in zip(*map(jax.tree.leaves, (plain, jitted, mapped)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(a, c[1], rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_derivative_in_theta_where_gradients_are_zero(name, key):
    """As of biases at first, of inputs that are zero, of what the loss does not see."""
    is_layerwise = name == "layerwise"
    lopt = layerwise(bases=tuple(BASES)) if is_layerwise else VARIANTS[name]()
    theta = perturbed_theta(lopt, key)
    x = jax.random.normal(key, (8, 4)).at[:, 1].set(0.0)
    params = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "b": jnp.zeros(3)}
    params["unseen"] = jnp.ones((2, 2))

    def loss(params):
        return jnp.mean((jnp.tanh(x @ params["w"] + params["b"][None]) - 0.3) ** 2)

    def trained(theta):
        optimizer = lopt.opt_fn(theta, num_steps=10)
        after, state = params, optimizer.init(params)
        for _ in range(2):
            value, grads = jax.value_and_grad(loss)(after)
            updates, state = optimizer.update(grads, state, after, value=value)
            after = optax.apply_updates(after, updates)
        return loss(after)

    direction = perturbed_theta(lopt, jax.random.key(6))
    slope = jax.tree.reduce(
        jnp.add,
        jax.tree.map(
            lambda g, d: jnp.sum(g * d), jax.jit(jax.grad(trained))(theta), direction
        ),
    )
    both = [
        jax.jit(trained)(jax.tree.map(lambda t, d, s=s: t + s * d, theta, direction))
        for s in (3e-3, -3e-3)
    ]
    np.testing.assert_allclose(slope, (both[0] - both[1]) / 6e-3, rtol=0.05, atol=1e-4)
