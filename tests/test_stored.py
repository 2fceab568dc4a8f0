"""Accumulators in bfloat16: half the memory, unbiased, and nearly the same updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from exported import PARAMS, loss_fn, made

from lopt.config import BrokenRule
from lopt.optimizers import OPTIMIZERS
from lopt.optimizers.stored import rounded

NAMES = ("adafac_mlp", "mlp", "celo2", "layerwise")
FLOATS = (jnp.float32, jnp.bfloat16)


def optimizer_of(name, **options):
    found = made(name, **options)
    return found.lopt.opt_fn(found.theta, num_steps=20)


def updated(optimizer, num=6):
    """Updates after some steps that all take alike, and the states on the way."""

    @jax.jit
    def update(state, shift):
        params = jax.tree.map(lambda p: p + shift, PARAMS)
        value, grads = jax.value_and_grad(loss_fn)(params)
        return optimizer.update(grads, state, params, value=value)

    states = [jax.jit(optimizer.init)(PARAMS)]
    for i in range(num):
        updates, state = update(states[-1], 0.1 * i)
        states.append(state)
    return jax.tree.leaves(updates), states


def large(state, dtype):
    """The largest arrays of a state that have this type."""
    return [x for x in jax.tree.leaves(state) if x.dtype == dtype and x.size >= 12]


@pytest.mark.parametrize("name", NAMES)
def test_updates_are_nearly_those_of_float32(name):
    expected, before = updated(optimizer_of(name))
    found, states = updated(optimizer_of(name, state_dtype="bfloat16"))
    assert not large(before[-1], jnp.bfloat16)
    kept = large(states[-1], jnp.bfloat16)
    assert kept and len(kept) == len(large(before[-1], jnp.float32))
    types = [jax.tree.map(lambda x: x.dtype, state) for state in states]
    assert all(x == types[0] for x in types), "one type, one program"
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == jnp.float32
        # Two digits and a half are kept; orthogonalization tells small matrices' apart.
        assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(b)
    assert any(not np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_what_the_policy_remembers_stays_in_float32():
    _, states = updated(optimizer_of("layerwise", state_dtype="bfloat16"), num=1)
    assert {x.dtype for x in jax.tree.leaves(states[-1].averages)} == {
        np.dtype("float32")
    }


def test_rounding_is_to_a_neighbor_and_right_in_the_mean():
    noise = np.random.RandomState(0).randn(200, 50).astype(np.float32)
    x = jnp.asarray(noise * np.geomspace(1e-20, 1e20, 50, dtype=np.float32))
    errors = []
    for step in range(30):
        y = np.asarray(rounded(x, jnp.int32(step)))
        np.testing.assert_array_equal(y, y.astype(jnp.bfloat16).astype(np.float32))
        errors.append((y - x) / np.abs(x))
    assert np.abs(errors).max() < 2**-7
    assert abs(np.mean(errors)) < 3e-5 and np.std(errors) > 1e-3
    assert np.abs(np.mean(errors, axis=0)).max() < 3e-3, "every number has its mean"


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_a_running_mean_comes_down_as_it_would(decay):
    """It would stand still at decay 0.999 if it were rounded to the nearest."""
    x, num = jnp.full(400, 1.2345, jnp.bfloat16), round(3 / (1 - decay))

    def step(x, i):
        return rounded(decay * x.astype(jnp.float32), i).astype(jnp.bfloat16), None

    last = jax.lax.scan(step, x, jnp.arange(num))[0].astype(jnp.float32)
    expected = 1.2345 * decay**num
    assert np.mean(last) == pytest.approx(expected, rel=0.03)
    zero, _ = step(jnp.zeros(3, jnp.bfloat16), jnp.int32(5))
    assert not np.any(zero)


def test_what_is_not_finite_stays_so_and_derivatives_pass():
    x = jnp.asarray([jnp.inf, -jnp.inf, jnp.nan, -jnp.nan, 1.0])
    y = np.asarray(rounded(x, jnp.int32(3)).astype(jnp.bfloat16), np.float32)
    np.testing.assert_array_equal(y, [np.inf, -np.inf, np.nan, np.nan, 1.0])
    slope = jax.grad(lambda x: jnp.sum(3 * rounded(x, jnp.int32(3))))(jnp.ones(2))
    np.testing.assert_array_equal(slope, [3.0, 3.0])


@pytest.mark.parametrize("name", NAMES)
def test_another_type_is_refused(name, unchecked_types):
    with pytest.raises(BrokenRule, match="`state_dtype` must be `float32` or"):
        OPTIMIZERS[name](state_dtype="float16")


def test_it_is_a_loop_that_scans(key):
    """bfloat16 state goes through `jit` and `scan` as any."""
    optimizer = optimizer_of("mlp", state_dtype="bfloat16")

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    run = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=5)[1])
    assert np.isfinite(run(PARAMS)).all()
