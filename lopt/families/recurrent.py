"""Recurrent networks, GRU or LSTM, that predict the next byte.

    e_t = E[x_t],    h_t = cell(W e_t + b, U h_{t-1}),    logits_t = f W_logits h_t

from h_0 = 0; of several layers, each reads the states of the one below for e_t. With
a = W e + b and c = U h cut into gates, and σ the logistic function,

    GRU:   h' = z h + (1 - z) tanh(a_n + r c_n),   r, z = σ(a + c)
    LSTM:  h' = o tanh s',   s' = f s + i tanh(a_g + c_g),   i, f, o = σ(a + c)

All gates of a layer are one tensor: `input`, W, and `recurrent`, U, are [D, 3 D] of a
GRU, gates r, z, n, and [D, 4 D] of an LSTM, gates i, f, g, o. To their specs each is one
hidden matrix that grows with the width on both sides; both have their layer's depth.

Shapes in names: B windows, T bytes of each, N = TB, C classes, D width, G all gates.

References:
  Cho et al., arXiv 1406.1078, 2014: the GRU; r gates the product, as cuDNN has it.
  Hochreiter and Schmidhuber, Long short-term memory, 1997; f's bias starts at 1 as of
  Jozefowicz et al., An empirical exploration of recurrent network architectures, 2015.
"""

import jax
import jax.numpy as jnp

from lopt import mup
from lopt.base import Array, Params, PRNGKey, Task
from lopt.checks import check_choices
from lopt.corpus import NUM_CLASSES
from lopt.factories import taken
from lopt.families.layers import draw_layers, preactivation
from lopt.families.text import TextNet, text_task


def recurrent(
    *,
    dataset: str = "lopt",
    cell: str = "gru",
    width: int = 32,
    depth: int = 1,
    sequence_length: int = 32,
    batch_size: int = 16,
    form: mup.Form = "mup",
    base_width: int = 32,
    data_seed: int = 0,
) -> Task:
    """A language model of bytes; metrics: `accuracy` and `bits_per_byte`.

    Args:
      dataset: a name in `lopt.corpus.CORPORA`, or the path of a text.
      cell: "gru" or "lstm".
      width: units of each layer.
      depth: number of layers.
      sequence_length: and all that follow: as of `transformer`.

    Raises:
      ConfigError: an option is out of range, or names something unknown.
    """
    options = locals()
    check_choices(CELLS, cell=cell)
    net = TextNet(kind=cell, **taken(TextNet, options))
    return text_task(cell, net, init, logits, dataset=dataset, data_seed=data_seed)


def _gru(state: tuple[Array, ...], a_GxB: Array, c_GxB: Array) -> tuple[Array, ...]:
    (a_r, a_z, a_n), (c_r, c_z, c_n) = jnp.split(a_GxB, 3), jnp.split(c_GxB, 3)
    r, z = jax.nn.sigmoid(a_r + c_r), jax.nn.sigmoid(a_z + c_z)
    return (z * state[0] + (1 - z) * jnp.tanh(a_n + r * c_n),)


def _lstm(state: tuple[Array, ...], a_GxB: Array, c_GxB: Array) -> tuple[Array, ...]:
    i, f, g, o = jnp.split(a_GxB + c_GxB, 4)
    s_DxB = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(s_DxB), s_DxB


CELLS = {"gru": (_gru, 3, 1), "lstm": (_lstm, 4, 2)}
"""The next state, h first, from one, a and c; how many gates and arrays of state."""


def init(net: TextNet, key: PRNGKey, width: int) -> Params:
    """Initial parameters at this width."""
    gates = CELLS[net.kind][1] * width
    layer = {"bias": (gates,), "input": (width, gates), "recurrent": (width, gates)}
    first, last = {"bytes": (NUM_CLASSES, width)}, {"logits": (width, NUM_CLASSES)}
    params = draw_layers(key, [first, *[layer] * net.depth, last])
    if net.kind == "lstm":
        for name in sorted(params)[1:-1]:
            bias = params[name]["bias"]
            params[name]["bias"] = bias.at[width : 2 * width].set(1.0)
    return params


def logits(net: TextNet, params: Params, x_BxT: Array) -> Array:
    """Of the byte after each, [C, N]."""
    first, *layers, last = (params[name] for name in sorted(params))
    cell, _, num_arrays = CELLS[net.kind]
    start = (jnp.zeros((net.width, len(x_BxT))),) * num_arrays
    x_CxN = jax.nn.one_hot(x_BxT.T.reshape(-1), NUM_CLASSES, axis=0)
    h_DxN = preactivation(first["bytes"].T @ x_CxN)
    for layer in layers:

        def step(state, a_GxB, layer=layer):
            state = cell(state, a_GxB, layer["recurrent"].T @ state[0])
            return state, state[0]

        a_GxN = preactivation(layer["input"].T @ h_DxN + layer["bias"][:, None])
        a_GxTxB = a_GxN.reshape(-1, *x_BxT.T.shape)
        _, h_TxDxB = jax.lax.scan(step, start, jnp.moveaxis(a_GxTxB, 1, 0))
        h_DxN = preactivation(jnp.moveaxis(h_TxDxB, 0, 1).reshape(net.width, -1))
    h_DxTxB = h_DxN.reshape(-1, *x_BxT.T.shape)
    h_DxN = h_DxTxB.swapaxes(1, 2).reshape(net.width, -1)
    return preactivation(net.forward * last["logits"].T @ h_DxN)
