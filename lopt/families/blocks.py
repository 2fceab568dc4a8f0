"""Transformers: blocks of attention and a dense layer, whatever comes before and after.

Once in each block, with a = norm(h),

    h ← h + W_out attention(W_q a, W_k a, W_v a),    h ← h + W_down gelu(W_up norm(h))

The norm is to unit RMS, with a gain. Attention's scores are qᵀk / √d in plain form, d
being the width of a head, and √d₀ qᵀk / d in muP form, d₀ being d at the base width:
trained queries and keys align, so that qᵀk grows as d does. The layers are counted as
they lie in a row, four to a block. What a block adds starts smaller by √(2 depth).
(Radford et al., Language models are unsupervised multitask learners, 2019; the scores:
Yang et al., Tensor Programs V, arXiv 2203.03466, 2022, section 8.1.)

Shapes in names: N places, D width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax

from lopt import mup
from lopt.base import Array, Params, PRNGKey
from lopt.checks import check_choices, check_integers
from lopt.config import BrokenRule
from lopt.families.attention import Weigh, attention, rms_norm
from lopt.families.layers import LayerShapes, draw_layers, preactivation


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """The blocks of a transformer.

    Attributes:
      width: of the residual stream; blocks are 4 times as wide inside.
      depth: number of blocks.
      num_heads: attention heads of a block; must divide `width` and `base_width`.
      form: "mup" multiplies the output weights' product by base_width / width and scales
        attention as above; "plain" does neither.
      base_width: the width at which both forms agree.

    Raises:
      BrokenRule: an option is out of range.
    """

    width: int
    depth: int
    num_heads: int
    form: mup.Form
    base_width: int

    def __post_init__(self):
        widths = {"width": self.width, "base_width": self.base_width}
        check_integers(1, **widths, depth=self.depth, num_heads=self.num_heads)
        check_choices(mup.FORMS, form=self.form)
        for option, value in widths.items():
            if value % self.num_heads:
                rule = f"be a multiple of `num_heads`, {self.num_heads}"
                raise BrokenRule(option, rule, value)

    @property
    def scale(self) -> float:
        """Of attention's scores."""
        ratio = self.base_width / self.width if self.form == "mup" else 1.0
        return math.sqrt(ratio) * (self.width / self.num_heads) ** -0.5


def attention_shapes(width: int) -> list[LayerShapes]:
    """The layers of a block's attention."""
    square = width, width
    return [{"query": square, "key": square, "value": square}, {"out": square}]


def block_shapes(width: int) -> list[LayerShapes]:
    """The layers of a block."""
    reads, out = attention_shapes(width)
    up = {"gain": (width,), "up": (width, 4 * width)}
    return [{"gain": (width,), **reads}, out, up, {"down": (4 * width, width)}]


def draw_blocks(key: PRNGKey, shapes: Sequence[LayerShapes], depth: int) -> Params:
    """Initial layers of these shapes, among which those of `depth` blocks."""
    params = draw_layers(key, shapes)
    for layer in params.values():
        for tensor in layer.keys() & {"out", "down"}:
            layer[tensor] /= math.sqrt(2 * depth)
    return params


def attend(
    blocks: Blocks, layer: Params, a_DxN: Array, *, length: int, weigh: Weigh
) -> Array:
    """attention(W_q a, W_k a, W_v a) over sequences of this length."""
    qkv = [preactivation(layer[name].T @ a_DxN) for name in ("query", "key", "value")]
    heads = {"num_heads": blocks.num_heads, "scale": blocks.scale}
    return attention(*qkv, length=length, weigh=weigh, **heads)


def apply_blocks(
    blocks: Blocks, layers: list[Params], h_DxN: Array, *, length: int, weigh: Weigh
) -> Array:
    """What all blocks make of h."""
    for reads, out, up, down in zip(*[iter(layers)] * 4, strict=True):
        a_DxN = rms_norm(h_DxN, reads["gain"])
        mixed_DxN = attend(blocks, reads, a_DxN, length=length, weigh=weigh)
        h_DxN += preactivation(out["out"].T @ mixed_DxN)
        up_ExN = preactivation(up["up"].T @ rms_norm(h_DxN, up["gain"]))
        h_DxN += preactivation(down["down"].T @ jax.nn.gelu(up_ExN))
    return h_DxN


def apply_attention(
    blocks: Blocks, layers: list[Params], h_DxN: Array, *, length: int, weigh: Weigh
) -> Array:
    """The same of blocks that are attention alone, without norms."""
    for reads, out in zip(*[iter(layers)] * 2, strict=True):
        mixed_DxN = attend(blocks, reads, h_DxN, length=length, weigh=weigh)
        h_DxN += preactivation(out["out"].T @ mixed_DxN)
    return h_DxN
