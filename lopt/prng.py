"""Keys from keys, and bits from keys, by a hash that costs next to nothing.

`jax.random`'s threefry is a loop that takes every program that has one a fifth of a
second to compile. It is left to what needs many numbers of a distribution (weights,
perturbations); what only wants keys that differ, or a few bits, mixes those of a key,
which are random themselves. Nothing here is for secrets.

References:
  Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, 2011: numbers
  from a key and a counter.
  Wellons, Hash function prospector, 2018: the multipliers of `lowbias32`.
"""

import math

import jax
import jax.numpy as jnp

from lopt.base import Array, PRNGKey


def fold_in(key: PRNGKey, numbers: Array) -> PRNGKey:
    """A key for each of the numbers, integers [...]: as many as asked for, [...]."""
    words = jax.random.key_data(key)
    counters = jnp.asarray(numbers, jnp.uint32)[..., None] * jnp.uint32(words.size)
    mixed = _mixed(words, counters + jnp.arange(words.size, dtype=jnp.uint32))
    return jax.random.wrap_key_data(mixed, impl=jax.random.key_impl(key))


def split(key: PRNGKey, *shape: int) -> PRNGKey:
    """Keys of this shape: those of `fold_in` with 0, 1, 2, …"""
    return fold_in(key, jnp.arange(math.prod(shape)).reshape(shape))


def bits(key: PRNGKey, *shape: int) -> Array:
    """Random bits of this shape, uint32. A key is for these or for keys, not both."""
    counters = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    return _mixed(jax.random.key_data(key), counters)


def uniform(key: PRNGKey) -> Array:
    """A number from [0, 1), a multiple of 2⁻²⁴: [] float32."""
    return (bits(key) >> 8).astype(jnp.float32) / 2**24


def _mixed(words: Array, counters: Array) -> Array:
    """Of each counter 32 bits that depend on all of the key's words.

    One to one in the counter: no two counters of a key have the same bits.
    """
    x = _hashed(counters + jnp.uint32(0x9E3779B9))  # zero would stay zero
    for word in words:
        x = _hashed(x ^ word)
    return x


def _hashed(x: Array) -> Array:
    """`lowbias32`, a mixture of 32 bits that can be undone."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
