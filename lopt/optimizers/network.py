"""The network that per-parameter optimizers apply to every element of every tensor.

A tensor's inputs are a list of *channels*: arrays [c, *s] in which axes may have size 1
(statistics of rows or columns). The relu network is the published one,

  y = Wₙ relu(… relu(W₀ x + b₀) …) + bₙ,  x = [normalized channels, shared inputs],

but it is evaluated in the cheapest order that gives the same sum:

* feature-major: activations are [hidden, elements];
* inputs that all elements share (time features) are projected once a step, into b₀;
* small tensors are packed: their elements, side by side, are those of one tensor;
* a large tensor's channels are not normalized: their scales multiply W₀; channels of
  rows and columns are projected by W₀ before they are broadcast;
* a narrow network is written out as scalar weights times rows, which the compiler fuses
  into one pass over the elements, with no activation in memory; a wide one is a product
  of matrices, slice by slice, so that activations stay in the cache.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from lopt import features, mup
from lopt.base import Array, MetaParams, Params, PRNGKey, PyTree, Specs

Layers = Sequence[tuple[Array, Array]]
"""Weights [outputs, inputs] and biases [outputs] of every layer."""

# Up to this width, activations fit into registers.
_NARROW = 8
# Tensors are packed up to so many elements together. A narrow network, which is cheap,
# pays for packing sooner than a wide one.
_NARROW_PACK = 1024
_WIDE_PACK = 2**16
# Elements of a slice: on a CPU, 32 activations of each fit into the cache.
_SLICE = 608
_SLICE_ELSEWHERE = 2**16
# Slices are of whole vector registers.
_VECTOR = 16


def init_network(key: PRNGKey, sizes: Sequence[int]) -> MetaParams:
    """Weights `w0, b0, w1, ...` of a network with these layer sizes, [outputs, inputs].

    Weights are normal with standard deviation 1/√inputs, cut at two standard
    deviations; biases are zero.
    """
    pairs = list(itertools.pairwise(sizes))
    # One draw for all layers: each further one costs compile time.
    noise = jax.random.truncated_normal(key, -2.0, 2.0, (sum(i * o for i, o in pairs),))
    theta, used = {}, 0
    for i, (n_in, n_out) in enumerate(pairs):
        w = noise[used : used + n_in * n_out].reshape(n_out, n_in)
        used += n_in * n_out
        theta[f"w{i}"] = w / n_in**0.5
        theta[f"b{i}"] = jnp.zeros(n_out)
    return theta


def apply_network(
    theta: MetaParams, channels: Sequence[Sequence[Array]], shared: Array, eps: float
) -> list[list[Array]]:
    """The network's outputs for every element of every tensor.

    Args:
      theta: weights as `init_network` makes them; the columns of `w0` are the channels
        in their order, then the shared inputs.
      channels: for every tensor its channels [c, *s or 1], broadcast together [., *s].
      shared: inputs that all elements share [k].
      eps: of the normalization of every channel to an RMS of one over the tensor.

    Returns:
      For every tensor a list of outputs [*s].
    """
    layers = _fold(theta, shared)
    is_narrow = max(len(b) for _, b in layers) <= _NARROW
    apply, apply_packed, limit = (
        (_narrow, _narrow_packed, _NARROW_PACK)
        if is_narrow
        else (_wide, _wide_packed, _WIDE_PACK)
    )
    sizes = [features.size(_broadcast_shape(c)) for c in channels]
    outputs = {}
    for pack in _packs(sizes, limit):
        members = [channels[i] for i in pack]
        if sizes[pack[0]] > limit:
            results = [apply(layers, c, eps) for c in members]
        else:
            results = apply_packed(layers, members, eps)
        outputs |= zip(pack, results, strict=True)
    return [outputs[i] for i in range(len(channels))]


def updates(
    outputs: PyTree,
    params: Params,
    specs: Specs | None,
    step_mult: float,
    exp_mult: float,
) -> PyTree:
    """-λ · step_mult · a · exp(exp_mult · b) for outputs (a, b), in the params' dtypes.

    λ is the muP multiplier of the tensor for entrywise directions, 1 without specs.
    """

    def update(p, output, multiplier):
        a, b = output
        step = step_mult * a * jnp.exp(exp_mult * b)
        return (-multiplier * step).astype(p.dtype)

    multipliers = (
        jax.tree.map(
            lambda _, spec: mup.update_multiplier(spec, "entrywise"), params, specs
        )
        if specs is not None
        else jax.tree.map(lambda _: 1.0, params)
    )
    return jax.tree.map(update, params, outputs, multipliers)


def normalized(channels: Sequence[Array], eps: float) -> Array:
    """The normalized channels [sum of c, *s], broadcast: what the network sees."""
    shape = jnp.broadcast_shapes(*(c.shape[1:] for c in channels))
    parts = []
    for _, group in itertools.groupby(channels, key=lambda c: c.shape[1:]):
        x = jnp.concatenate(list(group))
        x = x * features.rms_scale(x, eps)
        parts.append(jnp.broadcast_to(x, (len(x), *shape)))
    return jnp.concatenate(parts)


def _fold(theta: MetaParams, shared: Array) -> Layers:
    """The layers, those of the shared inputs folded into the first bias."""
    layers = [(theta[f"w{i}"], theta[f"b{i}"]) for i in range(len(theta) // 2)]
    w, b = layers[0]
    num_channels = w.shape[1] - shared.shape[0]
    return [(w[:, :num_channels], b + w[:, num_channels:] @ shared), *layers[1:]]


def _packs(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Tensors that share one evaluation: up to `limit` elements together, or one."""
    packs = [[i] for i, size in enumerate(sizes) if size > limit]
    room = 0
    for i, size in enumerate(sizes):
        if size > limit:
            continue
        if size > room or not packs:
            packs.append([])
            room = limit
        packs[-1].append(i)
        room -= size
    return packs


def _narrow(layers: Layers, channels: Sequence[Array], eps: float) -> list[Array]:
    """The outputs [*s] of a large tensor, with every layer as rows [*s].

    Only what is smaller than the tensor, statistics of rows and columns, is a product.
    """
    (w, b), *later = layers
    groups = _by_shape(w, channels)
    columns, own = groups.pop(_broadcast_shape(channels))
    products = [
        jnp.tensordot(columns, normalized(group, eps), axes=1)
        for columns, group in groups.values()
    ]
    rows = _sums(columns * _scales(own, eps), [x for c in own for x in c], b)
    rows = [sum((p[j] for p in products), row) for j, row in enumerate(rows)]
    return _later_rows(later, rows)


def _narrow_packed(
    layers: Layers, tensors: Sequence[Sequence[Array]], eps: float
) -> list[list[Array]]:
    """The outputs of small tensors: the first layer by products, then packed."""
    (w, b), *later = layers
    hidden = []
    for channels in tensors:
        x = features.along(b, channels[0])
        for columns, group in _by_shape(w, channels).values():
            x = x + jnp.tensordot(columns, normalized(group, eps), axes=1)
        hidden.append(x)
    return _packed(lambda x: _later_rows(later, list(x)), hidden)


def _wide(layers: Layers, channels: Sequence[Array], eps: float) -> list[Array]:
    """The outputs [*s] of a large tensor."""
    (w, b), *later = layers
    return _in_slices([(w * _scales(channels, eps), b), *later], channels)


def _wide_packed(
    layers: Layers, tensors: Sequence[Sequence[Array]], eps: float
) -> list[list[Array]]:
    """The outputs of tensors whose normalized channels are packed."""
    inputs = [normalized(c, eps) for c in tensors]
    return _packed(lambda x: _in_slices(layers, [x]), inputs)


def _packed(
    function: Callable[[Array], list[Array]], arrays: Sequence[Array]
) -> list[list[Array]]:
    """`function` [k, n] -> outputs [n], of arrays [k, *s] side by side."""
    sizes = [features.size(x.shape[1:]) for x in arrays]
    flat = [x.reshape(len(x), n) for x, n in zip(arrays, sizes, strict=True)]
    outputs = function(jnp.concatenate(flat, axis=1))
    ends = itertools.accumulate(sizes)
    return [
        [y[end - n : end].reshape(x.shape[1:]) for y in outputs]
        for x, n, end in zip(arrays, sizes, ends, strict=True)
    ]


def _later_rows(layers: Layers, rows: list[Array]) -> list[Array]:
    """The layers after the first, by rows."""
    for w, b in layers:
        rows = _sums(w, [jax.nn.relu(x) for x in rows], b)
    return rows


def _sums(w: Array, rows: Sequence[Array], bias: Array) -> list[Array]:
    """Each output's Σ_k w_jk row_k + bias_j, written out."""
    return [
        sum((w[j, k] * x for k, x in enumerate(rows)), bias[j]) for j in range(len(bias))
    ]


def _first_products(layers: Layers, channels: Sequence[Array]) -> Array:
    """The first layer's sums [h, *s], one product for each shape of channels."""
    w, b = layers[0]
    x = features.along(b, channels[0])
    for group in _by_shape(w, channels).values():
        x = x + _product(*group)
    return x


def _by_products(layers: Layers, channels: Sequence[Array]) -> Array:
    """The outputs [outputs, *s], with every layer as products of matrices."""
    x = _first_products(layers, channels)
    for w, b in layers[1:]:
        x = jnp.tensordot(w, jax.nn.relu(x), axes=1) + features.along(b, x)
    return x


def _in_slices(layers: Layers, channels: Sequence[Array]) -> list[Array]:
    """The outputs [*s], by products, slice by slice along the tensor's longest axis.

    The last slice overlaps the one before where the axis is no multiple of its width.
    """
    shape = _broadcast_shape(channels)
    axis = max(range(len(shape)), key=shape.__getitem__)
    width = _slice_width(shape, axis)
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


def _slice_width(shape: tuple[int, ...], axis: int) -> int:
    """Indices of a slice along the axis: slices are alike, and whole registers."""
    limit = _SLICE if jax.default_backend() == "cpu" else _SLICE_ELSEWHERE
    num_slices = max(1, round(features.size(shape) / limit))
    width = -(-shape[axis] // num_slices)
    if axis == len(shape) - 1:
        width = _VECTOR * -(-width // _VECTOR)
    return min(width, shape[axis])


def _product(columns: Array, group: Sequence[Array]) -> Array:
    """Σ over the channels of one shape of columns · channel: [h, *s or 1]."""
    return jnp.tensordot(columns, jnp.concatenate(group), axes=1)


def _scales(channels: Sequence[Array], eps: float) -> Array:
    """What normalizes channels, for the columns of a matrix that meet them: [1, c]."""
    scales = [features.rms_scale(c, eps).reshape(1, -1) for c in channels]
    return jnp.concatenate(scales, axis=1)


def _by_shape(
    w: Array, channels: Sequence[Array]
) -> dict[tuple[int, ...], tuple[Array, list[Array]]]:
    """For each shape of channels the columns of `w` that they meet, and them."""
    groups: dict[tuple[int, ...], tuple[list[Array], list[Array]]] = {}
    start = 0
    for c in channels:
        columns, group = groups.setdefault(c.shape[1:], ([], []))
        columns.append(w[:, start : start + len(c)])
        group.append(c)
        start += len(c)
    return {
        shape: (jnp.concatenate(columns, axis=1), group)
        for shape, (columns, group) in groups.items()
    }


def _broadcast_shape(channels: Sequence[Array]) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*(c.shape[1:] for c in channels))
