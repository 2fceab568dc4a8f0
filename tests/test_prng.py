"""What is drawn looks random, and depends on every bit of the key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lopt import prng

KEYS = [jax.random.key(0), jax.random.key(1), jax.random.key(0, impl="rbg")]
ALPHA = 1e-4
"""Probability that a truly random source fails a test; keys are fixed."""


def words(keys) -> np.ndarray:
    """The keys' bits [num, words]."""
    data = np.asarray(jax.random.key_data(keys))
    return data.reshape(-1, data.shape[-1])


@pytest.mark.parametrize("key", KEYS)
def test_bits_fall_evenly_into_classes(key):
    bits = np.asarray(prng.bits(key, 50_000))

    for classes in (bits % 988, bits >> 22, (bits >> 9) % 64):
        assert stats.chisquare(np.bincount(classes)).pvalue > ALPHA


@pytest.mark.parametrize("key", KEYS)
def test_neighbors_do_not_know_of_each_other(key):
    bits = np.asarray(prng.bits(key, 50_000)) >> 27

    for lag in (1, 2, 8, 128):
        pairs = 32 * bits[lag:] + bits[:-lag]
        assert stats.chisquare(np.bincount(pairs, minlength=1024)).pvalue > ALPHA


@pytest.mark.parametrize("draw", [prng.bits, lambda k, n: words(prng.split(k, n))])
def test_every_bit_of_a_key_changes_half_of_what_is_drawn(draw):
    def bits_of(data):
        key = jax.random.wrap_key_data(jnp.asarray(data, jnp.uint32))
        return np.unpackbits(np.asarray(draw(key, 2000)).view(np.uint8))

    key = np.asarray(jax.random.key_data(jax.random.key(3)))
    before = bits_of(key)
    for word in range(2):
        for bit in range(32):
            changed = key.copy()
            changed[word] ^= np.uint32(1 << bit)
            share = np.mean(bits_of(changed) != before)
            assert abs(share - 0.5) < 4.5 * 0.5 / np.sqrt(before.size)


def test_keys_that_differ_in_one_bit_do_not_draw_the_same_in_another_order():
    first, *others = (
        jax.random.wrap_key_data(jnp.asarray(data, jnp.uint32))
        for data in ([4, 5], [5, 5], [6, 5], [4, 4], [4, 7])
    )
    for other in others:
        assert len(np.intersect1d(prng.bits(first, 1024), prng.bits(other, 1024))) < 3


@pytest.mark.parametrize("key", KEYS)
def test_keys_of_keys_differ_and_look_random(key):
    keys = prng.split(key, 300, 7)
    grandchildren = prng.split(keys[0, 0], 1000), prng.split(keys[0, 1], 1000)
    everything = np.concatenate([words(key), *map(words, (keys, *grandchildren))])

    assert keys.shape == (300, 7)
    assert jax.random.key_impl(keys) == jax.random.key_impl(key)
    assert len(np.unique(everything, axis=0)) == len(everything)
    assert len(np.unique(words(keys))) == words(keys).size
    for word in words(keys).T:
        assert stats.chisquare(np.bincount(word >> 26, minlength=64)).pvalue > ALPHA


def test_keys_are_those_of_their_numbers():
    key = jax.random.key(5)
    folded = [words(prng.fold_in(key, i))[0] for i in (0, 1, 2)]

    np.testing.assert_array_equal(words(prng.split(key, 3)), folded)
    np.testing.assert_array_equal(words(prng.split(key, 1000))[:3], folded)


@pytest.mark.parametrize(
    ("draw", "law"),
    [
        (prng.uniform, stats.uniform()),
        (prng.normal, stats.norm()),
        (prng.truncated_normal, stats.truncnorm(-2, 2)),
    ],
)
@pytest.mark.parametrize("key", KEYS)
def test_numbers_follow_their_law(draw, law, key):
    x = np.asarray(draw(key, 100, 500))

    assert x.shape == (100, 500)
    assert x.dtype == np.float32
    assert stats.kstest(x.ravel(), law.cdf).pvalue > ALPHA


def test_no_number_is_at_the_end_of_its_range(monkeypatch):
    for extreme in (0, 2**32 - 1):
        bits = jnp.asarray([extreme], jnp.uint32)
        monkeypatch.setattr(prng, "bits", lambda key, *shape, bits=bits: bits)
        assert 0 < prng.uniform(jax.random.key(0), 1)[0] < 1
        assert 5 < abs(prng.normal(jax.random.key(0), 1)[0]) < 5.4


def test_a_program_draws_the_same_as_the_interpreter():
    key = jax.random.key(7)
    several = jax.vmap(lambda k: prng.normal(k, 3))(prng.split(key, 4))

    for one, row in zip(prng.split(key, 4), several, strict=True):
        np.testing.assert_array_equal(jax.jit(lambda k: prng.normal(k, 3))(one), row)
