"""Decoder-only transformers that predict the next byte.

    h = E[x_t] + P[t],    then, once in each block, with a = norm(h),
    h ← h + W_out attention(W_q a, W_k a, W_v a),    h ← h + W_down gelu(W_up norm(h)),
    and at the end    logits = f W_logits norm(h)

The norm is to unit RMS, with a gain. Attention's scores are qᵀk / √d in plain form, d
being the width of a head, and √d₀ qᵀk / d in muP form, d₀ being d at the base width:
trained queries and keys align, so that qᵀk grows as d does. The layers are counted as
they lie in a row, four to a block. What a block adds starts smaller by √(2 depth).

Shapes in names: B windows, T bytes of each, N = BT, C classes, D width.

References:
  Radford et al., Language models are unsupervised multitask learners, 2019: the network.
  Yang et al., Tensor Programs V, arXiv 2203.03466, 2022, section 8.1: the scores.
"""

import math

import jax
import jax.numpy as jnp

from lopt import mup
from lopt.base import Array, Params, PRNGKey, Task
from lopt.checks import check_integers
from lopt.config import BrokenRule
from lopt.corpus import NUM_CLASSES
from lopt.factories import taken
from lopt.families.attention import causal_attention, rms_norm
from lopt.families.layers import preactivation
from lopt.families.text import TextNet, draw_layers, text_task


def transformer(
    *,
    dataset: str = "lopt",
    width: int = 32,
    depth: int = 2,
    num_heads: int = 2,
    sequence_length: int = 32,
    batch_size: int = 16,
    form: mup.Form = "mup",
    base_width: int = 32,
    data_seed: int = 0,
) -> Task:
    """A language model of bytes; metrics: `accuracy` and `bits_per_byte`.

    Args:
      dataset: a name in `lopt.corpus.CORPORA`.
      width: of the residual stream; blocks are 4 times as wide inside.
      depth: number of blocks.
      num_heads: attention heads of a block; must divide `width` and `base_width`.
      sequence_length: bytes that a window predicts, each from those before it.
      batch_size: windows of a minibatch.
      form: "mup" multiplies the output weights' product by base_width / width and scales
        attention as above; "plain" does neither.
      base_width: the width at which both forms agree.
      data_seed: of the splits but test.

    Raises:
      ConfigError: an option is out of range, or names something unknown.
    """
    options = locals()
    net = TextNet(kind=num_heads, **taken(TextNet, options))
    check_integers(1, num_heads=num_heads)
    for option, value in {"width": width, "base_width": base_width}.items():
        if value % num_heads:
            raise BrokenRule(option, f"be a multiple of `num_heads`, {num_heads}", value)
    data = {"dataset": dataset, "data_seed": data_seed}
    return text_task("transformer", net, init, logits, **data)


def init(net: TextNet, key: PRNGKey, width: int) -> Params:
    """Initial parameters at this width."""
    square = width, width
    block = [
        {"gain": (width,), "query": square, "key": square, "value": square},
        {"out": square},
        {"gain": (width,), "up": (width, 4 * width)},
        {"down": (4 * width, width)},
    ]
    first = {"bytes": (NUM_CLASSES, width), "positions": (net.sequence_length, width)}
    last = {"gain": (width,), "logits": (width, NUM_CLASSES)}
    params = draw_layers(key, [first, *block * net.depth, last])
    for layer in params.values():
        for tensor in layer.keys() & {"out", "down"}:
            layer[tensor] /= math.sqrt(2 * net.depth)
    return params


def logits(net: TextNet, params: Params, x_BxT: Array) -> Array:
    """Of the byte after each, [C, N]."""
    first, *layers, last = (params[name] for name in sorted(params))
    scale = (net.width / net.kind) ** -0.5
    if net.form == "mup":
        scale *= math.sqrt(net.base_width / net.width)
    # One-hot, because a gather's gradient is a scatter, which is slow under vmap.
    x_CxN = jax.nn.one_hot(x_BxT.reshape(-1), NUM_CLASSES, axis=0)
    positions_DxN = jnp.tile(first["positions"].T, len(x_BxT))
    h_DxN = preactivation(first["bytes"].T @ x_CxN + positions_DxN)
    for attend, out, up, down in zip(*[iter(layers)] * 4, strict=True):
        a_DxN = rms_norm(h_DxN, attend["gain"])
        qkv = [
            preactivation(attend[name].T @ a_DxN) for name in ("query", "key", "value")
        ]
        mixed_DxN = causal_attention(
            *qkv, num_heads=net.kind, length=net.sequence_length, scale=scale
        )
        h_DxN += preactivation(out["out"].T @ mixed_DxN)
        up_ExN = preactivation(up["up"].T @ rms_norm(h_DxN, up["gain"]))
        h_DxN += preactivation(down["down"].T @ jax.nn.gelu(up_ExN))
    h_DxN = rms_norm(h_DxN, last["gain"])
    return preactivation(net.forward * last["logits"].T @ h_DxN)
