"""Random keys and numbers by a hash that costs next to nothing.

A key of `jax.random` is random bits; here they are mixed with a counter, by a few
operations that become part of whatever they are used in. `jax.random`'s threefry is a
loop instead, and each use takes a program a fifth of a second to compile, of which there
were six in a first outer step. Nothing here is for secrets.

References:
  Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, 2011: numbers
  from a key and a counter.
  Wellons, Hash function prospector, 2018: the multipliers of `lowbias32`.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lopt.base import Array, PRNGKey


def fold_in(key: PRNGKey, numbers: ArrayLike) -> PRNGKey:
    """A key for each of the numbers, integers [...]: as many as asked for, [...]."""
    words = jax.random.key_data(key)
    counters = jnp.asarray(numbers, jnp.uint32) * jnp.uint32(words.size)
    each = [_mixed(words, counters + jnp.uint32(j)) for j in range(words.size)]
    mixed = jnp.stack(each, axis=-1)
    return jax.random.wrap_key_data(mixed, impl=jax.random.key_impl(key))


def split(key: PRNGKey, *shape: int) -> PRNGKey:
    """Keys of this shape: those of `fold_in` with 0, 1, 2, …"""
    return fold_in(key, jnp.arange(math.prod(shape)).reshape(shape))


def bits(key: PRNGKey, *shape: int) -> Array:
    """Random bits of this shape, uint32. A key is for numbers or for keys, not both."""
    counters = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    return _mixed(jax.random.key_data(key), counters)


def uniform(key: PRNGKey, *shape: int) -> Array:
    """Numbers from (0, 1), odd multiples of 2⁻²⁴, float32."""
    return (2 * (bits(key, *shape) >> 9) + 1).astype(jnp.float32) / 2**24


def normal(key: PRNGKey, *shape: int) -> Array:
    """Numbers from N(0, 1), √2 erf⁻¹(2u − 1) for uniform u, float32: at most 5.3."""
    return math.sqrt(2) * jax.lax.erf_inv(2 * uniform(key, *shape) - 1)


def truncated_normal(key: PRNGKey, *shape: int) -> Array:
    """Numbers from N(0, 1), cut at two standard deviations, float32."""
    inside = math.erf(math.sqrt(2))
    return math.sqrt(2) * jax.lax.erf_inv(inside * (2 * uniform(key, *shape) - 1))


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
