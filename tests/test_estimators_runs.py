"""Runs that outlive a call, and runs within one: their lengths, starts and keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt.base import Reading, Unroll, UnrollState
from lopt.estimators import ESTIMATORS
from lopt.estimators.backprop import clipped
from lopt.estimators.runs import ended, over, particle_keys, started

LENGTH, LONGEST = 4, 20
THETA = {"unused": jnp.zeros(2)}


def drawing(lengths=(LONGEST,)) -> Unroll:
    """Runs of these lengths; losses are uniform draws from the truncations' keys."""

    def init(theta, key, data, num_steps):
        start = jax.random.uniform(key)
        step, best = jnp.zeros((), jnp.int32), jnp.asarray(jnp.inf, jnp.float32)
        return UnrollState(start, (), (), step, num_steps, best)

    def advance(theta, state, key, data, *, rematerialize="nothing"):
        after = state._replace(step=state.step + LENGTH)
        return Reading(jax.random.uniform(key), jnp.zeros((), bool)), after

    def draw_num_steps(key, progress):
        return jnp.asarray(lengths)[jnp.int32(jax.random.uniform(key) * len(lengths))]

    return Unroll(draw_num_steps, init, advance, LENGTH, LONGEST)


def start_all(run: UnrollState, key, num: int, lengths=(LONGEST,)):
    """So many particles that are all at this point of a run, and may start anew."""
    keys, inner = particle_keys(key, num), drawing(lengths)
    start = jax.vmap(lambda k: started(inner, THETA, run, k, (), jnp.float32(0)))
    return keys, start(keys)


def run_at(step: int, num_steps: int) -> UnrollState:
    counts = jnp.int32(step), jnp.int32(num_steps)
    return UnrollState(jnp.float32(7), (), (), *counts, jnp.float32(0))


def test_the_very_first_run_is_cut_at_any_truncation_alike(key):
    """Also where lengths are drawn: what is cut off does not depend on the length."""
    sizes = np.arange(1, 6)
    for drawn in ([5], sizes):
        lengths = tuple(LENGTH * n for n in drawn)
        _, runs = start_all(run_at(0, 0), key, 4000, lengths)
        cut, counts = np.unique(runs.num_steps // LENGTH, return_counts=True)
        np.testing.assert_array_equal(cut, sizes)
        share = np.asarray([np.mean([(n >= c) / n for n in drawn]) for c in sizes])
        error = np.sqrt(4000 * share * (1 - share))
        assert np.all(np.abs(counts - 4000 * share) < 4.5 * error), counts
        np.testing.assert_array_equal(runs.step, 0)


def test_later_runs_are_whole_and_one_in_progress_goes_on(key):
    keys, runs = start_all(run_at(12, 12), key, 8)
    np.testing.assert_array_equal(runs.num_steps, LONGEST)
    np.testing.assert_array_equal(runs.params, jax.vmap(jax.random.uniform)(keys.init))
    _, runs = start_all(run_at(8, 12), key, 8)
    for leaf, expected in zip(runs, run_at(8, 12), strict=True):
        np.testing.assert_array_equal(leaf, expected)


def test_no_key_serves_two_particles_or_two_purposes(key):
    keys = np.concatenate([jax.random.key_data(k) for k in particle_keys(key, 9)])
    assert len(np.unique(keys, axis=0)) == 9 * 5


def test_a_run_that_is_ended_is_over(key):
    _, runs = start_all(run_at(8, 12), key, 6)
    pairs = jax.tree.map(lambda x: x.reshape(3, 2), runs)
    assert not np.any(over(pairs))
    dead = jnp.asarray([False, True, False])
    np.testing.assert_array_equal(over(ended(pairs, dead))[:, 0], dead)
    np.testing.assert_array_equal(over(ended(pairs, dead))[:, 1], dead)


@pytest.mark.parametrize("name", ["full_es", "full_gradient", "nes"])
def test_each_truncation_of_a_whole_run_has_a_key_of_its_own(name, key):
    """The mean of five independent draws varies a fifth as much as one of them."""
    num = "population" if name == "nes" else "num_runs"
    options = {"num_pairs": 1} if name == "full_es" else {num: 2}
    estimator = ESTIMATORS[name](drawing(), **options)

    def loss(key):
        state = estimator.init(THETA, key, ())
        return estimator.estimate(THETA, state, key, (), jnp.float32(0))[0].loss

    losses = jax.vmap(loss)(jax.random.split(key, 500))
    runs = 2 if name == "full_gradient" else 1  # members of a pair share their data
    assert np.std(losses) == pytest.approx(np.sqrt(1 / 12 / 5 / runs), rel=0.15)


def test_a_huge_gradient_is_clipped_to_its_norm():
    """Of entries whose squares overflow, in the direction that they have."""
    grads = {"a": jnp.asarray([[3e30], [3e-3], [5.0]]), "b": jnp.asarray([4e30, 4e-3, 0])}
    kept = jnp.asarray([True, True, False])
    cut = clipped(grads, kept, 0.1)
    np.testing.assert_allclose(cut["a"][:, 0], [0.06, 3e-3, 0.0], rtol=1e-5)
    np.testing.assert_allclose(cut["b"], [0.08, 4e-3, 0.0], rtol=1e-5)
    loose = clipped(grads, kept, 0.0)
    np.testing.assert_array_equal(loose["a"][:, 0], np.float32([3e30, 3e-3, 0.0]))
