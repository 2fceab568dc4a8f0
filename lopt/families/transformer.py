"""Decoder-only transformers that predict the next byte.

    h = E[x_t] + P[t],    then the blocks of `lopt.families.blocks`, which see the past,
    and at the end    logits = f W_logits norm(h)

Shapes in names: B windows, T bytes of each, N = BT, C classes, D width.
"""

import jax
import jax.numpy as jnp

from lopt import mup
from lopt.base import Array, Params, PRNGKey, Task
from lopt.corpus import NUM_CLASSES
from lopt.factories import taken
from lopt.families.attention import rms_norm, softmax_of_past
from lopt.families.blocks import Blocks, apply_blocks, block_shapes, draw_blocks
from lopt.families.layers import preactivation
from lopt.families.text import TextNet, text_task


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
      dataset: a name in `lopt.corpus.CORPORA`, or the path of a text.
      width: of the residual stream; blocks are 4 times as wide inside.
      depth: number of blocks.
      num_heads: attention heads of a block; must divide `width` and `base_width`.
      sequence_length: bytes that a window predicts, each from those before it.
      batch_size: windows of a minibatch.
      form: see `lopt.families.blocks.Blocks`.
      base_width: the width at which both forms agree.
      data_seed: of the splits but test.

    Raises:
      ConfigError: an option is out of range, or names something unknown.
    """
    options = locals()
    net = TextNet(kind=Blocks(**taken(Blocks, options)), **taken(TextNet, options))
    data = {"dataset": dataset, "data_seed": data_seed}
    return text_task("transformer", net, init, logits, **data)


def init(net: TextNet, key: PRNGKey, width: int) -> Params:
    """Initial parameters at this width."""
    first = {"bytes": (NUM_CLASSES, width), "positions": (net.sequence_length, width)}
    last = {"gain": (width,), "logits": (width, NUM_CLASSES)}
    shapes = [first, *block_shapes(width) * net.depth, last]
    return draw_blocks(key, shapes, net.depth)


def logits(net: TextNet, params: Params, x_BxT: Array) -> Array:
    """Of the byte after each, [C, N]."""
    first, *layers, last = (params[name] for name in sorted(params))
    # One-hot, because a gather's gradient is a scatter, which is slow under vmap.
    x_CxN = jax.nn.one_hot(x_BxT.reshape(-1), NUM_CLASSES, axis=0)
    positions_DxN = jnp.tile(first["positions"].T, len(x_BxT))
    h_DxN = preactivation(first["bytes"].T @ x_CxN + positions_DxN)
    places = {"length": net.sequence_length, "weigh": softmax_of_past}
    h_DxN = rms_norm(apply_blocks(net.kind, layers, h_DxN, **places), last["gain"])
    return preactivation(net.forward * last["logits"].T @ h_DxN)
