"""Statistics against plain numpy and against optax's Adafactor."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt import features
from lopt.features import FactoredMoment, FullMoment


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def uneven(rng, shape) -> np.ndarray:
    """A gradient with a scale of its own in every slice along every axis.

    With entries all alike, a mean over the wrong axis would look right.
    """
    g = rng.normal(size=shape)
    for axis, size in enumerate(shape):
        scale = np.exp(rng.normal(size=size))
        g *= scale.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return g.astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((), None),
        ((5,), None),
        ((6, 6), (0, 1)),
        ((8, 4), (1, 0)),
        ((1, 7), (0, 1)),
        ((3, 3, 2, 5), (1, 3)),
        ((5, 2, 5), (0, 2)),
    ],
)
def test_two_largest_axes_are_factored_and_the_later_of_equals_is_larger(shape, axes):
    assert features.factored_axes(shape) == axes


@pytest.mark.parametrize("shape", [(8, 4), (4, 8), (3, 3, 2, 5)])
def test_factored_moment_is_the_mean_square_over_rows_and_columns(rng, shape):
    decays = np.array([0.9, 0.5], np.float32)
    v = features.init_factored_moment(jnp.zeros(shape), 2)
    row, col = (np.zeros_like(x) for x in v)
    d1, d0 = features.factored_axes(shape)
    for _ in range(3):
        g = uneven(rng, shape)
        v = features.update_factored_moment(v, jnp.asarray(g), jnp.asarray(decays))
        for k, d in enumerate(decays):
            row[k] = d * row[k] + (1 - d) * (g**2).mean(d0, keepdims=True)
            col[k] = d * col[k] + (1 - d) * (g**2).mean(d1, keepdims=True)
    np.testing.assert_allclose(v.row, row, rtol=1e-5)
    np.testing.assert_allclose(v.col, col, rtol=1e-5)


@pytest.mark.parametrize("shape", [(8, 4), (4, 8), (2, 9, 5)])
def test_preconditioned_gradient_is_that_of_optax_adafactor(rng, shape):
    """At the first step optax's decay is 0, and neither side has a floor in reach."""
    g = jnp.asarray(uneven(rng, shape))
    adafactor = optax.scale_by_factored_rms(min_dim_size_to_factor=1, epsilon=1e-30)
    expected, _ = adafactor.update(g, adafactor.init(g), g)
    v = features.init_factored_moment(g, 1)
    v = features.update_factored_moment(v, g, jnp.zeros(1))
    assert isinstance(v, FactoredMoment)
    rho, kappa = features.reciprocal_root_factors(v)
    np.testing.assert_allclose((g[None] * rho * kappa)[0], expected, rtol=2e-5)


def test_what_is_not_factored_keeps_every_element(rng):
    g = jnp.asarray(uneven(rng, (7,)))
    v = features.init_factored_moment(g, 1)
    assert isinstance(v, FullMoment)
    v = features.update_factored_moment(v, g, jnp.zeros(1))
    np.testing.assert_allclose(v.full[0], g**2, rtol=1e-6)
    expected = np.sign(g)
    np.testing.assert_allclose(
        g * features.reciprocal_root(v)[0], expected, atol=1e-4 / np.abs(g).min() ** 2
    )


def test_decays_of_second_moments_are_clipped_and_those_of_momenta_are_not():
    g, zeros, decays = jnp.ones(2), jnp.zeros((2, 2)), jnp.array([-0.5, 1.5])
    m = features.update_momenta(zeros, g, decays)
    r = features.update_second_moments(zeros, 2 * g, decays)
    np.testing.assert_allclose(m, [[1.5, 1.5], [-0.5, -0.5]])
    np.testing.assert_allclose(r, [[4.0, 4.0], [0.0, 0.0]])


def test_learned_decays_start_at_the_initial_ones_and_move_on_a_log_scale():
    initial = (0.9, 0.99, 0.999)
    start = features.learned_decays(initial, jnp.zeros(3))
    np.testing.assert_allclose(start, initial, rtol=1e-6)
    moved = features.learned_decays(initial, jnp.full(3, 0.1 * np.log(2.0)))
    np.testing.assert_allclose(moved, [0.8, 0.98, 0.998], rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 8, 4), (3, 1, 4), (3, 5), (3,)])
def test_a_scaled_channel_has_unit_rms_also_where_it_will_be_broadcast(rng, shape):
    x = jnp.asarray(
        1e3
        * rng.normal(size=shape)
        * np.arange(1, 4).reshape((3,) + (1,) * (len(shape) - 1)),
        jnp.float32,
    )
    y = jnp.broadcast_to(
        x * features.rms_scale(x, 1e-5),
        (3, *(8,) * (len(shape) > 2), *shape[2:]) if len(shape) == 3 else shape,
    )
    rms = np.sqrt(np.mean(np.square(y), axis=tuple(range(1, y.ndim))))
    np.testing.assert_allclose(rms, 1.0, rtol=1e-5)


def test_a_zero_channel_stays_zero_and_a_tiny_one_is_damped():
    assert features.rms_scale(jnp.zeros((1, 4)), 1e-5)[0, 0] == pytest.approx(1e-5**-0.5)
    tiny = jnp.full((1, 4), 1e-3)
    expected = 1e-3 / np.sqrt(1e-5 + 1e-6)
    assert (tiny * features.rms_scale(tiny, 1e-5))[0, 0] == pytest.approx(expected)


def test_time_features_are_tanh_of_steps_over_each_scale():
    expected = [np.tanh(37 / scale - 1) for scale in features.TIME_SCALES]
    assert len(expected) == 11
    np.testing.assert_allclose(features.tanh_time_features(37), expected, atol=1e-6)


def test_statistics_of_bfloat16_are_float32():
    params = {"w": jnp.zeros((4, 2), jnp.bfloat16)}
    assert features.zeros(params, 3)["w"].dtype == jnp.float32
    moment = features.init_factored_moment(params["w"], 3)
    assert {x.dtype for x in jax.tree.leaves(moment)} == {jnp.dtype("float32")}
