"""The network that per-parameter optimizers apply to every element of every tensor.

A tensor's inputs are a list of *channels*: arrays [c, *s] in which axes may have size 1
(statistics of rows or columns). The relu network is the published one,

  y = Wₙᵀ relu(… relu(W₀ᵀ x + b₀) …) + bₙ,  x = [normalized channels, shared inputs],

but it is evaluated in the cheapest order that gives the same sum:

* feature-major: activations are [hidden, elements];
* a normalized channel is (scale × channel), so the scales multiply W₀, not the channels;
* channels of rows and columns are projected by W₀ before they are broadcast;
* inputs that all elements share (time features) are projected once a step, into b₀;
* tensors too small to keep a matrix product busy share one call for all later layers.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lopt import features, mup
from lopt.base import Array, MetaParams, Params, PRNGKey, PyTree, Specs

# Below this many elements a call costs more than its arithmetic.
_SMALL = 1024


def init_network(key: PRNGKey, sizes: Sequence[int]) -> MetaParams:
    """Weights `w0, b0, w1, ...` of a network with these layer sizes, [inputs, outputs].

    Weights are normal with standard deviation 1/√inputs, cut at two standard deviations;
    biases are zero.
    """
    theta = {}
    pairs = list(itertools.pairwise(sizes))
    for i, (subkey, (n_in, n_out)) in enumerate(
        zip(jax.random.split(key, len(pairs)), pairs, strict=True)
    ):
        w = jax.random.truncated_normal(subkey, -2.0, 2.0, (n_in, n_out))
        theta[f"w{i}"] = w / n_in**0.5
        theta[f"b{i}"] = jnp.zeros(n_out)
    return theta


def apply_network(
    theta: MetaParams, channels: Sequence[Sequence[Array]], shared: Array, eps: float
) -> list[Array]:
    """The network's outputs for every element of every tensor.

    Args:
      theta: weights as `init_network` makes them; the rows of `w0` are the channels in
        their order, then the shared inputs.
      channels: for every tensor its channels [c, *s or 1], together broadcast to [., *s].
      shared: inputs that all elements share [k].
      eps: of the normalization of every channel to an RMS of one over the tensor.

    Returns:
      For every tensor [outputs, *s].
    """
    num_channels = theta["w0"].shape[0] - shared.shape[0]
    bias = theta["b0"] + shared @ theta["w0"][num_channels:]
    firsts = [_first_layer(theta["w0"], bias, c, eps) for c in channels]
    return _pack_small(lambda x: _later_layers(theta, x), firsts)


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
    """W₀ᵀ (scale × channels) + bias: [hidden, *s]."""
    total = features.along(bias, jnp.empty((1,) * channels[0].ndim))
    for shape in dict.fromkeys(c.shape[1:] for c in channels):
        start, weights, group = 0, [], []
        for c in channels:
            if c.shape[1:] == shape:
                group.append(c)
                scale = features.rms_scale(c, eps).reshape(-1, 1)
                weights.append(w[start : start + len(c)] * scale)
            start += len(c)
        projected = jnp.tensordot(
            jnp.concatenate(weights), jnp.concatenate(group), axes=(0, 0)
        )
        total = total + projected
    return total


def _later_layers(theta: MetaParams, x: Array) -> Array:
    """Everything after the first layer's sum, x [hidden, n] -> [outputs, n]."""
    for i in range(1, len(theta) // 2):
        x = jnp.tensordot(theta[f"w{i}"], jax.nn.relu(x), axes=(0, 0))
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
