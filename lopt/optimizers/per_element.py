"""A relu network on every element of one tensor, written out or by products.

Inputs are channels: arrays [c, *s] in which axes may have size 1. The columns of the
first layer's weights meet them in their order; each channel is projected as it is and
broadcast afterwards.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lopt import features
from lopt.base import Array

Layer = tuple[Array, Array]
"""Weights [outputs, inputs] and biases [outputs]."""
Layers = Sequence[Layer]

# Slices are of whole vector registers.
_VECTOR = 16


def shape_of(channels: Sequence[Array]) -> tuple[int, ...]:
    """The tensor's shape *s, from its channels."""
    return jnp.broadcast_shapes(*(c.shape[1:] for c in channels))


def is_flat(channels: Sequence[Array]) -> bool:
    """Whether all are of the tensor's own shape, which may then be forgotten."""
    shape = shape_of(channels)
    return all(c.shape[1:] == shape for c in channels)


def by_rows(layers: Layers, channels: Sequence[Array]) -> list[Array]:
    """The outputs [*s] of a narrow network, with every layer as rows [*s].

    Only what is smaller than the tensor, statistics of rows and columns, is a product.
    """
    (w, b), *later = layers
    groups = by_shape(with_columns(w, channels))
    columns, own = groups.pop(shape_of(channels))
    rows = sums((columns, b), [x for c in own for x in c])
    for columns, group in groups.values():
        product = jnp.tensordot(columns, jnp.concatenate(group), axes=1)
        rows = [row + product[j] for j, row in enumerate(rows)]
    for layer in later:
        rows = sums(layer, [jax.nn.relu(x) for x in rows])
    return rows


def products(layer: Layer, channels: Sequence[Array]) -> Array:
    """The first layer's sums [h, *s], one product for each shape of channels.

    A channel that is an array of its own is not copied beside others for a product, but
    added by the pass over the elements that follows.
    """
    w, b = layer
    x = features.along(b, channels[0])
    pairs = with_columns(w, channels)
    for columns, c in pairs:
        if len(c) == 1:
            x = x + features.along(columns[:, 0], c) * c
    several = [(columns, c) for columns, c in pairs if len(c) > 1]
    for columns, group in by_shape(several).values():
        x = x + jnp.tensordot(columns, jnp.concatenate(group), axes=1)
    return x


def by_slices(layers: Layers, channels: Sequence[Array], size: int) -> list[Array]:
    """The outputs [*s] of a wide network, by products of matrices.

    They are computed slice by slice, of about `size` elements each, for what is in
    memory of all activations is one slice.
    """
    shape = shape_of(channels)
    if is_flat(channels):
        channels = [c.reshape(len(c), -1) for c in channels]
    return [y.reshape(shape) for y in _along_longest(layers, channels, size)]


def later_products(layers: Layers, x: Array) -> Array:
    """The outputs [outputs, *s] of the layers after the first, from its sums [h, *s]."""
    for w, b in layers:
        x = jnp.tensordot(w, jax.nn.relu(x), axes=1) + features.along(b, x)
    return x


def _by_products(layers: Layers, channels: Sequence[Array]) -> Array:
    """The outputs [outputs, *s], with every layer as products of matrices."""
    first, *later = layers
    return later_products(later, products(first, channels))


def _along_longest(layers: Layers, channels: Sequence[Array], size: int) -> list[Array]:
    """Slices are cut along the longest axis.

    The last overlaps the one before where the axis is no multiple of its width.
    """
    shape = shape_of(channels)
    axis = max(range(len(shape)), key=shape.__getitem__)
    width = _slice_width(shape, axis, size)
    if width == shape[axis]:
        return list(_by_products(layers, channels))

    def write(i: Array, outputs: list[Array]) -> list[Array]:
        start = jnp.minimum(i * width, shape[axis] - width)
        part = [
            c
            if c.shape[axis + 1] == 1
            else jax.lax.dynamic_slice_in_dim(c, start, width, axis + 1)
            for c in channels
        ]
        return [
            jax.lax.dynamic_update_slice_in_dim(output, y, start, axis)
            for output, y in zip(outputs, _by_products(layers, part), strict=True)
        ]

    _, last = layers[-1]
    empty = [jnp.zeros(shape, last.dtype)] * len(last)
    return jax.lax.fori_loop(0, -(-shape[axis] // width), write, empty)


def _slice_width(shape: tuple[int, ...], axis: int, size: int) -> int:
    """Indices along the axis of slices alike, of about `size` elements."""
    num_slices = max(1, round(features.size(shape) / size))
    width = -(-shape[axis] // num_slices)
    if axis == len(shape) - 1:
        width = _VECTOR * -(-width // _VECTOR)
    return min(width, shape[axis])


def sums(
    layer: tuple[Array, Array | Sequence[Array]], inputs: Sequence[Array]
) -> list[Array]:
    """Each output's Σ_k w_jk x_k + b_j, written out; inputs and outputs [*s]."""
    w, b = layer
    return [sum((w[j, k] * x for k, x in enumerate(inputs)), b[j]) for j in range(len(b))]


def with_columns(w: Array, channels: Sequence[Array]) -> list[tuple[Array, Array]]:
    """Each channel and the columns of `w` that it meets."""
    ends = itertools.accumulate(len(c) for c in channels)
    return [(w[:, end - len(c) : end], c) for end, c in zip(ends, channels, strict=True)]


def by_shape(
    pairs: Sequence[tuple[Array, Array]],
) -> dict[tuple[int, ...], tuple[Array, list[Array]]]:
    """For each shape of channels the columns that they meet, and them."""
    groups: dict[tuple[int, ...], tuple[list[Array], list[Array]]] = {}
    for w, c in pairs:
        columns, group = groups.setdefault(c.shape[1:], ([], []))
        columns.append(w)
        group.append(c)
    return {
        shape: (jnp.concatenate(columns, axis=1), group)
        for shape, (columns, group) in groups.items()
    }
