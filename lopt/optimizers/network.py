"""The network that per-parameter optimizers apply to every element of every tensor.

A tensor's inputs are a list of *channels*: arrays [c, *s] in which axes may have size 1
(statistics of rows or columns). The relu network is the published one,

  y = Wₙ relu(… relu(W₀ x + b₀) …) + bₙ,  x = [normalized channels, shared inputs],

but it is evaluated in the cheapest order that gives the same sum:

* feature-major: activations are [hidden, elements];
* a normalized channel is (scale × channel): the scales multiply W₀, not the channels;
* channels of rows and columns are projected by W₀ before they are broadcast;
* inputs that all elements share (time features) are projected once a step, into b₀;
* tensors too small to keep the processor busy share one call for all later layers;
* a narrow network is written out as scalar weights times rows, which the compiler fuses
  into one pass over the elements, with no activation in memory; a wide one is a product
  of matrices.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lopt import features, mup
from lopt.base import Array, MetaParams, Params, PRNGKey, PyTree, Specs

# Tensors with fewer elements cost more in calls than in arithmetic.
_SMALL = 1024
# Wide networks take larger tensors slice by slice, of about so many elements: their
# activations would need hundreds of bytes for every element.
_SLICE = 2**16
# Up to this width, activations fit into registers.
_NARROW = 8


def init_network(key: PRNGKey, sizes: Sequence[int]) -> MetaParams:
    """Weights `w0, b0, w1, ...` of a network with these layer sizes, [outputs, inputs].

    Weights are normal with standard deviation 1/√inputs, cut at two standard
    deviations; biases are zero.
    """
    theta = {}
    pairs = list(itertools.pairwise(sizes))
    keys = jax.random.split(key, len(pairs))
    for i, (subkey, (n_in, n_out)) in enumerate(zip(keys, pairs, strict=True)):
        w = jax.random.truncated_normal(subkey, -2.0, 2.0, (n_out, n_in))
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
    num_channels = theta["w0"].shape[1] - shared.shape[0]
    bias = theta["b0"] + theta["w0"][:, num_channels:] @ shared
    narrow = max(len(b) for name, b in theta.items() if name[0] == "b") <= _NARROW
    later = _later_rows if narrow else _later_products

    def first(c: Sequence[Array], shape: tuple[int, ...]) -> Array | list[Array]:
        if narrow and features.size(shape) >= _SMALL:
            return _first_rows(theta["w0"], bias, c, eps)
        return _first_products(theta["w0"], bias, c, eps)

    shapes = [_broadcast_shape(c) for c in channels]
    small = [i for i, shape in enumerate(shapes) if features.size(shape) < _SMALL]
    hidden, outputs = {}, {}
    for i, (c, shape) in enumerate(zip(channels, shapes, strict=True)):
        if not narrow and features.size(shape) > _SLICE:
            outputs[i] = _in_slices(theta, bias, c, eps)
            continue
        hidden[i] = first(c, shape)
        if i not in small:
            outputs[i] = list(later(theta, hidden[i]))
    if small:
        flat = [hidden[i].reshape(len(bias), -1) for i in small]
        packed = later(theta, jnp.concatenate(flat, axis=1))
        ends = list(itertools.accumulate(x.shape[1] for x in flat))
        for i, end, x in zip(small, ends, flat, strict=True):
            rows = (y[end - x.shape[1] : end] for y in packed)
            outputs[i] = [y.reshape(shapes[i]) for y in rows]
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
    scaled = [c * features.rms_scale(c, eps) for c in channels]
    return jnp.concatenate([jnp.broadcast_to(c, (len(c), *shape)) for c in scaled])


def _first_layer(w: Array, bias: Array, channels: Sequence[Array], eps: float) -> Array:
    """W₀ (scale × channels) + bias: [hidden, *s]."""
    total = features.along(bias, jnp.empty((1,) * channels[0].ndim))
    for shape in dict.fromkeys(c.shape[1:] for c in channels):
        start, weights, group = 0, [], []
        for c in channels:
            if c.shape[1:] == shape:
                group.append(c)
                scale = features.rms_scale(c, eps).reshape(1, -1)
                weights.append(w[:, start : start + len(c)] * scale)
            start += len(c)
        projected = jnp.tensordot(
            jnp.concatenate(weights, axis=1), jnp.concatenate(group), axes=1
        )
        total = total + projected
    return total


def _later_layers(theta: MetaParams, x: Array) -> Array:
    """Everything after the first layer's sum, x [hidden, n] -> [outputs, n]."""
    for i in range(1, len(theta) // 2):
        x = jnp.tensordot(theta[f"w{i}"], jax.nn.relu(x), axes=1)
        x = x + theta[f"b{i}"][:, None]
    return x


def _pack_small(function, arrays: Sequence[Array]) -> list[Array]:
    """`function` [a, n] -> [b, n] of arrays [a, *s], small ones in a single call."""
    sizes = [features.size(x.shape[1:]) for x in arrays]
    flat = [x.reshape(len(x), n) for x, n in zip(arrays, sizes, strict=True)]
    small = [i for i, n in enumerate(sizes) if n < _SMALL]
    results = {i: function(x) for i, x in enumerate(flat) if i not in small}
    if small:
        packed = function(jnp.concatenate([flat[i] for i in small], axis=1))
        start = 0
        for i in small:
            results[i] = packed[:, start : start + sizes[i]]
            start += sizes[i]
    return [results[i].reshape(-1, *x.shape[1:]) for i, x in enumerate(arrays)]


def _first_products(
    w: Array, bias: Array, channels: Sequence[Array], eps: float
) -> Array:
    """W₀ (scale × channels) + bias: [h, *s], one product for each shape of channels."""
    total = features.along(bias, channels[0])
    for columns, group in _by_shape(w, channels).values():
        total = total + _product(columns, group, eps)
    return total


def _first_rows(
    w: Array, bias: Array, channels: Sequence[Array], eps: float
) -> list[Array]:
    """The same sum as h rows [*s], each of them a sum of scalars times channels.

    Only what is smaller than the tensor, statistics of rows and columns, is a product.
    """
    groups = _by_shape(w, channels)
    own_columns, own = groups.pop(_broadcast_shape(channels))
    products = [_product(*group, eps) for group in groups.values()]
    scaled = [
        c * features.rms_scale(x, eps).reshape(1, -1)
        for c, x in zip(own_columns, own, strict=True)
    ]
    rows = _sums(jnp.concatenate(scaled, axis=1), [x for c in own for x in c], bias)
    return [sum((p[j] for p in products), row) for j, row in enumerate(rows)]


def _later_products(theta: MetaParams, x: Array) -> Array:
    """The layers after the first, h sums [h, *s] -> [outputs, *s]."""
    for i in range(1, len(theta) // 2):
        x = jnp.tensordot(theta[f"w{i}"], jax.nn.relu(x), axes=1)
        x = x + features.along(theta[f"b{i}"], x)
    return x


def _later_rows(theta: MetaParams, rows: Sequence[Array] | Array) -> list[Array]:
    """The same for h rows [*s], as a list of outputs."""
    rows = list(rows)
    for i in range(1, len(theta) // 2):
        rows = _sums(theta[f"w{i}"], [jax.nn.relu(x) for x in rows], theta[f"b{i}"])
    return rows


def _sums(w: Array, rows: Sequence[Array], bias: Array) -> list[Array]:
    """Each output's Σ_k w_jk row_k + bias_j, written out."""
    return [
        sum((w[j, k] * x for k, x in enumerate(rows)), bias[j]) for j in range(len(bias))
    ]


def _product(columns: list[Array], group: list[Array], eps: float) -> Array:
    """Σ over the channels of one shape of columns · scale · channel: [h, *s or 1]."""
    x = jnp.concatenate(group)
    scale = features.rms_scale(x, eps).reshape(1, -1)
    return jnp.tensordot(jnp.concatenate(columns, axis=1) * scale, x, axes=1)


def _in_slices(
    theta: MetaParams, bias: Array, channels: Sequence[Array], eps: float
) -> list[Array]:
    """All layers of a wide network, slice by slice along the tensor's longest axis.

    The last slice overlaps the one before where the axis is no multiple of its width.
    """
    shape = _broadcast_shape(channels)
    axis = max(range(len(shape)), key=shape.__getitem__)
    width = max(1, _SLICE * shape[axis] // features.size(shape))
    scales = [features.rms_scale(c, eps).reshape(1, -1) for c in channels]
    scale = jnp.concatenate(scales, axis=1)
    w = theta["w0"][:, : scale.shape[1]] * scale

    def write(i: Array, outputs: list[Array]) -> list[Array]:
        start = jnp.minimum(i * width, shape[axis] - width)
        part = [
            c
            if c.shape[axis + 1] == 1
            else jax.lax.dynamic_slice_in_dim(c, start, width, axis + 1)
            for c in channels
        ]
        x = features.along(bias, part[0])
        for columns, group in _by_shape(w, part).values():
            columns = jnp.concatenate(columns, axis=1)
            x = x + jnp.tensordot(columns, jnp.concatenate(group), axes=1)
        return [
            jax.lax.dynamic_update_slice_in_dim(output, y, start, axis)
            for output, y in zip(outputs, _later_products(theta, x), strict=True)
        ]

    empty = [jnp.zeros(shape, w.dtype)] * len(theta[f"b{len(theta) // 2 - 1}"])
    return jax.lax.fori_loop(0, -(-shape[axis] // width), write, empty)


def _by_shape(
    w: Array, channels: Sequence[Array]
) -> dict[tuple[int, ...], tuple[list[Array], list[Array]]]:
    """For each shape of channels the columns of `w` that they meet, and them."""
    groups: dict[tuple[int, ...], tuple[list[Array], list[Array]]] = {}
    start = 0
    for c in channels:
        columns, group = groups.setdefault(c.shape[1:], ([], []))
        columns.append(w[:, start : start + len(c)])
        group.append(c)
        start += len(c)
    return groups


def _broadcast_shape(channels: Sequence[Array]) -> tuple[int, ...]:
    return jnp.broadcast_shapes(*(c.shape[1:] for c in channels))
