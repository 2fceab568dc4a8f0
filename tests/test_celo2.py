"""What Celo2's recordings do not show: matrices by specs, muP, the schedule, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import random_tree

from lopt import mup
from lopt.base import ParamSpec
from lopt.errors import ConfigError
from lopt.optimizers.celo2 import celo2

SHAPES = {"kernel": (3, 3, 2, 5), "bias": (5,), "w": (4, 6)}
DENSE = {"kernel": (18, 5), "bias": (5,), "w": (4, 6)}


def history(key, shapes=SHAPES, *, specs=None, num_steps=None, **options):
    """Parameters and updates of three steps with random gradients, from one theta."""
    lopt = celo2(**options)
    optimizer = lopt.opt_fn(lopt.init(key), specs=specs, num_steps=num_steps)
    params = random_tree(SHAPES, key)
    params = {name: x.reshape(shapes[name]) for name, x in params.items()}
    state, found = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for i in range(3):
        grads = random_tree(SHAPES, jax.random.fold_in(key, i))
        grads = {name: x.reshape(shapes[name]) for name, x in grads.items()}
        updates, state = update(grads, state, params)
        found.append((params, updates))
        params = {name: params[name] + updates[name] for name in params}
    return found


def test_a_kernel_is_the_matrix_of_its_spec(key):
    """As a dense layer of its inputs; as published, every place is one by itself."""
    by_spec, dense = history(key), history(key, DENSE)
    published = history(key, axes="last")
    for (_, ours), (_, other), (_, theirs) in zip(by_spec, dense, published, strict=True):
        kernel = np.asarray(ours["kernel"])
        np.testing.assert_allclose(kernel.reshape(18, 5), other["kernel"], rtol=1e-5)
        np.testing.assert_allclose(ours["w"], theirs["w"], rtol=1e-5)
        assert np.abs(kernel - theirs["kernel"]).max() > 0.1 * np.abs(kernel).max()


@pytest.mark.parametrize("orthogonalize", [True, False])
def test_directions_have_unit_rms(key, orthogonalize):
    options = {"orthogonalize": orthogonalize, "vectors": "learned"}
    for _, updates in history(key, learning_rate=0.5, **options):
        for update in updates.values():
            assert jnp.sqrt(jnp.mean(update**2)) == pytest.approx(0.5, rel=1e-3)


def test_orthogonalized_directions_are_nearly_orthogonal(key):
    _, updates = history(key)[0]
    values = jnp.linalg.svd(updates["w"], compute_uv=False)
    assert values.max() / values.min() < 2
    _, updates = history(key, orthogonalize=False)[0]
    values = jnp.linalg.svd(updates["w"], compute_uv=False)
    assert values.max() / values.min() > 2


def test_embeddings_are_adams_by_their_spec(key):
    params = random_tree(SHAPES, key)
    specs = mup.param_specs(params, roles={"w": "embedding"})
    _, updates = history(key, specs=specs, vector_mult=3.0)[0]
    np.testing.assert_allclose(jnp.abs(updates["w"]), 3e-3, rtol=1e-4)
    np.testing.assert_allclose(jnp.abs(updates["bias"]), 3e-3, rtol=1e-4)


def test_the_multiplier_is_the_directions_and_not_the_decays(key):
    specs = mup.param_specs(random_tree(SHAPES, key))
    wide = dict(specs, w=ParamSpec(**{**vars(specs["w"]), "width_in": 4.0}))
    options = {"weight_decay": 0.5, "orthogonalize": False}
    (params, plain), *_ = history(key, specs=specs, **options)
    (_, scaled), *_ = history(key, specs=wide, **options)
    decay = -0.001 * 0.5 * params["w"]
    np.testing.assert_allclose(scaled["w"] - decay, (plain["w"] - decay) / 4, rtol=1e-4)
    np.testing.assert_array_equal(scaled["kernel"], plain["kernel"])


def test_a_cosine_ends_at_zero(key):
    constant = history(key, num_steps=2)
    cosine = history(key, num_steps=2, schedule="cosine")
    for name in SHAPES:
        np.testing.assert_array_equal(cosine[0][1][name], constant[0][1][name])
        half = jnp.abs(cosine[1][1][name]).mean() / jnp.abs(constant[1][1][name]).mean()
        assert half == pytest.approx(0.5, rel=1e-3)
        np.testing.assert_allclose(cosine[2][1][name], 0, atol=1e-9)
    lopt = celo2(schedule="cosine")
    with pytest.raises(TypeError, match="`num_steps`"):
        lopt.opt_fn(lopt.init(key))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"hidden_sizes": (8, 0)}, "`hidden_sizes` must be positive whole numbers"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive, got 0.0"),
        ({"vector_mult": -1.0}, "`vector_mult` must be positive, got -1.0"),
        ({"weight_decay": -0.1}, "`weight_decay` must not be negative, got -0.1"),
        ({"momentum_decays": (1.0,)}, "`momentum_decays` must be in"),
        ({"rms_decays": (0.9, 0.99)}, "`rms_decays` must be one or as many as"),
    ],
)
def test_refuses_options(options, words):
    with pytest.raises(ConfigError, match=words):
        celo2(**options)
