"""Vision transformers that classify small images.

An image is cut into squares of `patch_size` pixels, in reading order; with their pixels
as p_t and the blocks of `lopt.families.blocks`, where every patch sees all,

    h_t = W_in p_t + P[t],    then the blocks,    logits = f W_logits mean_t norm(h_t)

There is no class token: the mean over patches does as well (Beyer, Zhai and Kolesnikov,
Better plain ViT baselines for ImageNet-1k, arXiv 2205.01580, 2022).

Shapes in names: B images, D pixels of an image, T patches of it, N = BT, P pixels of a
patch, C classes, W the width.

References:
  Dosovitskiy et al., An image is worth 16x16 words, arXiv 2010.11929, 2020.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import jax.numpy as jnp

from lopt import mup
from lopt.base import Array, Params, PRNGKey, Task
from lopt.checks import check_integers
from lopt.config import BrokenRule
from lopt.data import Examples, image_shape, short_name
from lopt.factories import taken
from lopt.families.attention import rms_norm, softmax
from lopt.families.blocks import Blocks, apply_blocks, block_shapes, draw_blocks
from lopt.families.classification import count_classes, cross_entropy, loss_bound
from lopt.families.examples import load, task_on_examples
from lopt.families.layers import preactivation, specs_by_name
from lopt.families.stateless import Measured

Image = tuple[int, int, int]


def vit(
    *,
    dataset: str = "digits",
    width: int = 32,
    depth: int = 2,
    num_heads: int = 2,
    patch_size: int = 2,
    batch_size: int = 32,
    form: mup.Form = "mup",
    base_width: int = 32,
    num_examples: int | None = None,
    label_noise: float = 0.0,
    input_scale: float = 1.0,
    input_offset: float = 0.0,
    eval_examples: int | None = None,
    classes: Sequence[int] | None = None,
    data_seed: int = 0,
    stream_examples: int | None = None,
) -> Task:
    """A vision transformer that classifies images; metrics: `accuracy`.

    Args:
      dataset: a name in `lopt.data.DATASETS` or a path (`lopt.disk`), of images.
      width: and all to `num_heads`, `form` and `base_width`: see
        `lopt.families.blocks.Blocks`.
      patch_size: pixels of a patch's side; must divide the images' sides.
      batch_size: examples of a minibatch, drawn with replacement.
      num_examples: and all that follow: as of `mlp`.

    Raises:
      ConfigError: an option is out of range, or names something unknown.
    """
    options = locals()
    data, suffix, stream = load(of="classes", **taken(load, options))
    blocks, image = Blocks(**taken(Blocks, options)), image_shape(dataset)
    check_integers(1, batch_size=batch_size, patch_size=patch_size)
    if image[0] % patch_size or image[1] % patch_size:
        rule = f"divide the sides of images of {image[0]}x{image[1]} pixels"
        raise BrokenRule("patch_size", rule, patch_size)
    name = f"vit-{short_name(dataset)}-{depth}x{width}-patch-{patch_size}"
    name += ("-plain" if form == "plain" else "") + suffix
    num_classes = count_classes(data)
    task = _task(blocks, image, patch_size, num_classes, batch_size)
    bound = loss_bound(num_classes)
    return replace(task, name=name, data=data, stream=stream, loss_bound=bound)


@cache
def _task(blocks: Blocks, image: Image, side: int, classes: int, batch_size: int) -> Task:
    length = image[0] * image[1] // side**2

    def init(key: PRNGKey, width: int = blocks.width) -> Params:
        first = {"inputs": (side**2 * image[2], width), "positions": (length, width)}
        last = {"gain": (width,), "logits": (width, classes)}
        shapes = [first, *block_shapes(width) * blocks.depth, last]
        return draw_blocks(key, shapes, blocks.depth)

    specs = specs_by_name(init, blocks)

    def loss(params: Params, batch: Examples, key: PRNGKey) -> Measured:
        del key
        x_BxD, y_B = batch
        first, *layers, last = (params[name] for name in sorted(params))
        positions_WxN = jnp.tile(first["positions"].T, len(x_BxD))
        p_PxN = patches(x_BxD, image, side)
        h_WxN = preactivation(first["inputs"].T @ p_PxN + positions_WxN)
        h_WxN = apply_blocks(blocks, layers, h_WxN, length=length, weigh=softmax)
        h_WxN = rms_norm(h_WxN, last["gain"])
        h_WxB = jnp.mean(h_WxN.reshape(blocks.width, -1, length), axis=2)
        forward = specs[max(specs)]["logits"].forward
        return cross_entropy(preactivation(forward * last["logits"].T @ h_WxB), y_B)

    return task_on_examples(init, loss, specs=specs, batch_size=batch_size)


def patches(x_BxD: Array, image: Image, side: int) -> Array:
    """Patches of rows of pixels, [P, N], the patches of an image one after the other."""
    height, width, colors = image
    cut = x_BxD.reshape(-1, height // side, side, width // side, side, colors)
    return cut.transpose(2, 4, 5, 0, 1, 3).reshape(side**2 * colors, -1)
