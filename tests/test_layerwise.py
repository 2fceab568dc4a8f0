"""What `layerwise` decides, and what it refuses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trees import TREES, perturbed_theta, random_tree, run

from lopt import mup, packing
from lopt.bases import orthogonalize
from lopt.errors import ConfigError
from lopt.optimizers import pieces, policy
from lopt.optimizers.layerwise import layerwise


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
    rate = 0.015 / (1 + 2 / 1000) * (1 - 0.95 * 2 / 100)

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
    prior = policy.Prior(0.04, 30.0, 0.05, 2.0, 10.0, 0.25, (4.0, 2.0), (0.2, 0.3, 0.5))
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
    decay = np.exp(1 / 4) * base.weight_decay
    np.testing.assert_allclose(decide(6).weight_decay, decay, rtol=1e-5)
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
    prior = policy.Prior(0.03, 30.0, 0.05, 4.5, 10.0, 1.0, (0.0,), (0.3, 0.7))
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
        ({"decay_gain": 0.0}, "decay_gain"),
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


@pytest.mark.parametrize("momenta", [(0.9,), (0.5, 0.9)])
@pytest.mark.parametrize("base", ["adam", "adabelief", "lion", "sgd"])
def test_measuring_in_pieces_does_not_change_the_update(base, momenta, key, monkeypatch):
    """Of large tensors alone, the last piece overlapping; two small ones are a stack."""
    prior = {"prior_logits": {}, "prior_blend": [0.3, *[0.4] * len(momenta)]}
    lopt = layerwise(bases=(base,), momenta=momenta, **prior)
    theta = perturbed_theta(lopt, key)
    shapes = {"matrix": (40, 50), "vector": (700,), "a": (3, 4), "b": (3, 4)}
    params = random_tree(shapes, key)
    whole = run(lopt.opt_fn(theta, num_steps=10), params, key)
    monkeypatch.setattr(pieces, "_LARGE", 100)
    monkeypatch.setattr(pieces, "PIECE", 450)
    measured, measure = [], pieces.mean_squares
    monkeypatch.setattr(
        pieces,
        "mean_squares",
        lambda c: measured.append(c.seen[0].shape[1:]) or measure(c),
    )
    in_pieces = run(lopt.opt_fn(theta, num_steps=10), params, key)
    assert measured == [(40, 50), (700,)]
    for name in shapes:
        np.testing.assert_allclose(in_pieces[name], whole[name], rtol=1e-4, atol=1e-6)
