"""The contract of every learned optimizer, over the registry and over variants."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt import mup, packing
from lopt.bases import BASES, orthogonalize
from lopt.errors import ConfigError
from lopt.optimizers import OPTIMIZERS, policy
from lopt.optimizers.layerwise import layerwise

VARIANTS = {
    **{name: factory for name, factory in OPTIMIZERS.items()},
    "layerwise-linear": lambda: layerwise(hidden_sizes=()),
    **{f"layerwise-{b}": lambda b=b: layerwise(bases=("adam", b)) for b in BASES},
}

TREES = {
    "scalar": {"s": ()},
    "vectors": {"a": (5,), "b": (1,)},
    "matrices": {"tall": (6, 3), "wide": (2, 7), "square": (4, 4), "other": (4, 4)},
    "convolution": {"kernel": (3, 3, 2, 5), "bias": (5,)},
    "zero-size": {"none": (0, 3), "w": (2, 2)},
}
MIXED = {name: shape for tree in TREES.values() for name, shape in tree.items()}


def perturbed_theta(lopt, key):
    theta = lopt.init(key)
    leaves, treedef = jax.tree.flatten(theta)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, noisy)


def random_tree(shapes, key, dtype=jnp.float32):
    keys = jax.random.split(key, max(len(shapes), 1))
    return {
        name: jax.random.normal(k, shape).astype(dtype)
        for (name, shape), k in zip(sorted(shapes.items()), keys, strict=False)
    }


def run(optimizer, params, key, num_steps=3, jit=True):
    """Parameters after some steps with random gradients."""
    state = optimizer.init(params)
    update = jax.jit(optimizer.update) if jit else optimizer.update
    for i in range(num_steps):
        shapes = {name: p.shape for name, p in params.items()}
        grads = random_tree(shapes, jax.random.fold_in(key, i))
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
        updates, state = update(grads, state, params, value=jnp.float32(1.0 + i))
        params = optax.apply_updates(params, updates)
    return params


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
        pytest.param(name, marks=pytest.mark.slow)
        if name in ("layerwise-linear", "mup_adafac")
        else name
        for name in VARIANTS
    ],
)
def test_jit_and_vmap_change_nothing(name, key):
    lopt = VARIANTS[name]()
    theta = perturbed_theta(lopt, key)
    params = random_tree(TREES["matrices"], key)

    def train(theta, params, jit):
        return run(lopt.opt_fn(theta, num_steps=10), params, key, jit=jit)

    plain = train(theta, params, False)
    jitted = train(theta, params, True)
    both = jax.tree.map(lambda x: jnp.stack([x, x]), (theta, params))
    mapped = jax.vmap(lambda t, p: train(t, p, False))(*both)
    for a, b, c in zip(*map(jax.tree.leaves, (plain, jitted, mapped)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(a, c[1], rtol=2e-4, atol=2e-5)


def test_layerwise_starts_from_its_prior(key):
    """Fresh theta: −λ₀ (Σ μ d̂ + ω φ) from the prior's blend, spelled out in numpy."""
    lopt = layerwise(momenta=(0.5, 0.9), prior_blend=(0.2, 0.3, 0.5), weight_decay=2.0)
    params = random_tree({"v": (4,), "w": (3, 5)}, key)
    optimizer = lopt.opt_fn(lopt.init(key), num_steps=100)
    state, seen = optimizer.init(params), []
    for i in range(3):
        grads = random_tree({"v": (4,), "w": (3, 5)}, jax.random.fold_in(key, i))
        seen.append({name: np.asarray(g) for name, g in grads.items()})
        updates, state = optimizer.update(grads, state, params, value=1.0)
    rate = 0.03 / (1 + 2 / 30) * (1 - 0.95 * 2 / 100)

    def blended(name):
        total = 0.2 * seen[2][name]
        for beta, share in ((0.5, 0.3), (0.9, 0.5)):
            weights = beta ** np.arange(2, -1, -1.0)
            terms = [w * g[name] for w, g in zip(weights, seen, strict=True)]
            total += share * np.sum(terms, axis=0) / weights.sum()
        return total

    def adam(name):
        squares = [0.999**k * g[name] ** 2 for k, g in enumerate(seen[::-1])]
        d = blended(name) / np.sqrt(np.sum(squares, axis=0))
        return d / np.sqrt(np.mean(d**2))

    np.testing.assert_allclose(updates["v"], -rate * adam("v"), rtol=1e-4)
    orthogonal = np.asarray(orthogonalize(jnp.asarray(blended("w")))) * np.sqrt(5)
    mu = np.exp(4.0) / (np.exp(4.0) + 1)
    decay = 2.0 * 10 ** (-1 / 3)  # as of three layers, for their number is not known
    mixed = mu * orthogonal + (1 - mu) * adam("w") + decay * np.asarray(params["w"])
    np.testing.assert_allclose(updates["w"], -rate * mixed, rtol=1e-3, atol=1e-6)


def test_outputs_are_what_they_are_said_to_be(key):
    """A bias of the last layer, one output at a time: λ, ω, mixture and blend."""
    specs = mup.infer_specs({"v": jnp.ones(4), "w": jnp.ones((3, 5))})
    pack = packing.packing(specs)
    prior = policy.Prior(0.04, 30.0, 0.05, 2.0, 10.0, (4.0, 2.0), (0.2, 0.3, 0.5))
    available = [(True, False), (True, True)]
    steps = jnp.asarray(0.0), jnp.asarray(100.0)

    def decide(index):
        outputs = jnp.zeros((2, 7)).at[:, index].set(1.0)
        return policy.decide(prior, outputs, available, pack.specs, *steps)

    base = policy.decide(prior, jnp.zeros((2, 7)), available, pack.specs, *steps)
    np.testing.assert_allclose(base.blend, [[0.2, 0.3, 0.5]] * 2, rtol=1e-5)
    np.testing.assert_allclose(base.weight_decay, [0.0, 2.0 * 10 ** (-1 / 3)], rtol=1e-5)
    e = np.exp(1.0)
    np.testing.assert_allclose(decide(5).step_size, e * base.step_size, rtol=1e-5)
    np.testing.assert_allclose(decide(6).weight_decay, e * base.weight_decay, rtol=1e-5)
    odds = base.mixture[1, 0] / base.mixture[1, 1] * e**policy.LOGIT_GAIN
    np.testing.assert_allclose(
        decide(0).mixture, [[1, 0], [odds / (1 + odds), 1 / (1 + odds)]], rtol=1e-4
    )
    for i in range(3):
        shares = np.array([0.2, 0.3, 0.5])
        shares[i] *= e**policy.LOGIT_GAIN
        np.testing.assert_allclose(
            decide(2 + i).blend[1], shares / shares.sum(), rtol=1e-4
        )


@pytest.mark.parametrize(
    "layers, decay", [(2, 1.423), (3, 2.089), (7, 3.239), (99, 4.397)]
)
def test_prior_decay_keeps_the_scale_of_the_logits(layers, decay):
    """ω^L is 4.5^L / 10 at every depth, on matrices alone."""
    matrix = mup.infer_specs(jnp.ones((3, 5)))
    vector = mup.infer_specs(jnp.ones(5))
    prior = policy.Prior(0.03, 30.0, 0.05, 4.5, 10.0, (0.0,), (0.3, 0.7))
    specs = [replace(spec, num_layers=layers) for spec in (matrix, vector)]
    found, none = policy.prior_decay(prior, specs)
    np.testing.assert_allclose(found, decay, rtol=1e-3)
    np.testing.assert_allclose((found / 4.5) ** layers, 0.1, rtol=1e-3)
    assert none == 0


def test_layerwise_says_what_is_missing(key):
    lopt = layerwise()
    theta = lopt.init(key)
    params = {"w": jnp.ones((2, 2))}
    with pytest.raises(TypeError, match="num_steps"):
        lopt.opt_fn(theta)
    optimizer = lopt.opt_fn(theta, num_steps=10)
    state = optimizer.init(params)
    with pytest.raises(TypeError, match="value"):
        optimizer.update(params, state, params)
    with pytest.raises(ValueError, match="parameters"):
        optimizer.update(params, state, value=1.0)
    with pytest.raises(ValueError, match=r"`w` has shape \(3, 2\)"):
        specs = mup.infer_specs(params)
        lopt.opt_fn(theta, num_steps=10, specs=specs).init({"w": jnp.ones((3, 2))})


@pytest.mark.parametrize(
    "options, words",
    [
        ({"bases": ("adan",)}, "adan"),
        ({"bases": ("muon",)}, "vectors"),
        ({"bases": ("muon", "mars")}, "`mars` needs a second gradient"),
        ({"embedding_size": 2}, "num_tensors"),
        ({"hidden_sizes": (0,)}, "hidden_sizes"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"prior_logits": {"moun": 1.0}}, "moun"),
        ({"momenta": ()}, "momenta"),
        ({"momenta": (0.9, 1.0)}, "momenta"),
        ({"prior_blend": (0.2, 0.3, 0.5)}, "2 shares"),
        ({"prior_blend": (0.0, 1.0)}, "positive"),
    ],
)
def test_layerwise_refuses_options(options, words):
    with pytest.raises(ConfigError, match=words):
        layerwise(**options)


def test_embedding_is_by_tensor_in_tree_order(key):
    """Changing one row of the embedding changes that tensor's update alone."""
    lopt = layerwise(embedding_size=2, num_tensors=3, hidden_sizes=())
    params = random_tree({"a": (2, 3), "b": (3,), "c": (2, 3)}, key)
    theta = perturbed_theta(lopt, key)
    before = run(lopt.opt_fn(theta, num_steps=10), params, key, 1)
    theta["embedding"] = theta["embedding"].at[1].add(1.0)
    after = run(lopt.opt_fn(theta, num_steps=10), params, key, 1)
    changed = [name for name in params if np.any(before[name] != after[name])]
    assert changed == ["b"]
    with pytest.raises(ValueError, match="3 tensors"):
        run(lopt.opt_fn(theta, num_steps=10), {"a": params["a"]}, key)


def test_updates_do_not_depend_on_the_scale_of_loss_and_gradient(key):
    """Scale-free inputs and normalized directions: g -> 100 g, loss -> 100 loss."""
    lopt = layerwise(bases=("muon", "adam", "lion", "sgd"))
    optimizer = lopt.opt_fn(perturbed_theta(lopt, key), num_steps=10)
    params = random_tree(TREES["matrices"], key)
    ends = []
    for scale in (1.0, 100.0):
        p, state = params, optimizer.init(params)
        for i in range(3):
            g = random_tree(TREES["matrices"], jax.random.fold_in(key, i))
            g = jax.tree.map(lambda x, s=scale: s * x, g)
            updates, state = optimizer.update(g, state, p, value=scale * (2.0 - 0.1 * i))
            p = optax.apply_updates(p, updates)
        ends.append(p)
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_packing_round_trip_and_sums(key):
    params = random_tree({**TREES["matrices"], **TREES["convolution"], "s": ()}, key)
    pack = packing.packing(mup.infer_specs(params))
    stacks = pack.pack(params)
    back = pack.unpack(stacks, params)
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.array_equal(a, b), params, back))
    leaves = jax.tree.leaves(params)
    order = [i for group in pack.groups for i in group]
    expected = [float(jnp.sum(leaves[i])) for i in order]
    np.testing.assert_allclose(pack.sums(stacks), expected, rtol=1e-4, atol=1e-5)
    ones = pack.spread(jnp.arange(float(len(leaves))))
    scaled = pack.unpack(
        tuple(s * jnp.ones_like(x) for s, x in zip(ones, stacks, strict=True)), params
    )
    for rank, i in enumerate(order):
        np.testing.assert_array_equal(jax.tree.leaves(scaled)[i], float(rank))


def test_matrices_follow_the_axes_of_the_spec(key):
    """A convolution's matrix is [fan_in, fan_out], whatever the layout."""
    kernel = jax.random.normal(key, (1, 3, 3, 2, 5))
    spec = mup.infer_specs({"k": kernel[0]})["k"]
    matrix = packing.as_matrices(kernel, spec)
    np.testing.assert_array_equal(matrix[0], np.asarray(kernel[0]).reshape(18, 5))
    np.testing.assert_array_equal(packing.from_matrices(matrix, spec), kernel)
    oihw = type(spec)(role="hidden", shape=(5, 2, 3, 3), in_axes=(1, 2, 3), out_axes=(0,))
    turned = jnp.transpose(kernel, (0, 4, 3, 1, 2))
    matrix = packing.as_matrices(turned, oihw)
    assert matrix.shape == (1, 18, 5)
    np.testing.assert_array_equal(packing.from_matrices(matrix, oihw), turned)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_derivative_in_theta_where_gradients_are_zero(name, key):
    """As of biases at first, of inputs that are zero, of what the loss does not see."""
    options = {"bases": tuple(BASES)} if name == "layerwise" else {}
    lopt = OPTIMIZERS[name](**options)
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

    direction = perturbed_theta(lopt, jax.random.key(7))
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
