"""Convolutional networks that classify small images.

A stem and `depth` more 3x3 convolutions of `width` channels, padded by one pixel of
zeros; the stem moves by `stride` pixels. The mean over all pixels goes to the output.
With `residual` each convolution adds act(norm(W_l * h_{l-1}) + b_l) to h_{l-1}: norms are
at the ends of its branches (Liu et al., Swin V2, arXiv 2111.09883, 2021).

Shapes in names: C channels, H by W pixels, B examples of a batch, D inputs.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

import jax.numpy as jnp

from lopt import mup
from lopt.base import Params, PRNGKey, Task
from lopt.checks import check_choices, check_integers
from lopt.data import Examples, image_shape, short_name
from lopt.factories import taken
from lopt.families.batch_norm import LayerMoments
from lopt.families.classification import count_classes, cross_entropy, loss_bound
from lopt.families.convolution import convolve
from lopt.families.dense import apply_dense
from lopt.families.examples import load
from lopt.families.network import (
    Network,
    activate,
    init_network,
    network_specs,
    network_task,
)

Image = tuple[int, int, int]


def convnet(
    *,
    dataset: str = "digits",
    width: int = 16,
    depth: int = 2,
    stride: int = 2,
    residual: bool = False,
    batch_size: int = 32,
    activation: str = "relu",
    normalization: str = "none",
    init: str = "lecun",
    form: mup.Form = "mup",
    base_width: int = 16,
    output_init: float = 0.1,
    num_examples: int | None = None,
    label_noise: float = 0.0,
    input_scale: float = 1.0,
    input_offset: float = 0.0,
    eval_examples: int | None = None,
    classes: Sequence[int] | None = None,
    data_seed: int = 0,
    stream_examples: int | None = None,
) -> Task:
    """A convolutional classifier of images; metrics: `accuracy`.

    Args:
      dataset: a name in `lopt.data.DATASETS` or a path (`lopt.disk`), of images.
      width: channels.
      depth: convolutions after the stem.
      stride: of the stem, in pixels.
      residual: whether convolutions after the stem add to their inputs.
      batch_size: examples of a minibatch, drawn with replacement.
      activation: and all from here to `output_init`: see `lopt.families.network.Network`;
        "layer" normalizes over the channels of a pixel, "batch" over all pixels, too.
      num_examples: and all that follow: as of `mlp`.

    Raises:
      ConfigError: an option is out of range, or names something unknown.
    """
    options = locals()
    data, suffix, stream = load(of="classes", **taken(load, options))
    net = Network(**taken(Network, options))
    check_integers(1, batch_size=batch_size, stride=stride)
    check_choices((True, False), residual=residual)
    kind = "resnet" if residual else "convnet"
    name = f"{kind}-{short_name(dataset)}-{depth}x{width}-{activation}"
    name += f"-stride-{stride}" if stride != 2 else ""
    num_classes = count_classes(data)
    task = _task(net, image_shape(dataset), num_classes, stride, residual, batch_size)
    bound = loss_bound(num_classes)
    name += net.suffix + suffix
    return replace(task, name=name, data=data, stream=stream, loss_bound=bound)


@cache
def _task(
    net: Network, image: Image, classes: int, stride: int, residual: bool, batch_size: int
) -> Task:
    def shapes(width: int) -> list[tuple[int, ...]]:
        convolutions = [(3, 3, width, width)] * net.depth
        return [(3, 3, image[2], width), *convolutions, (width, classes)]

    init, specs = partial(init_network, net, shapes), network_specs(net, shapes)

    def measure(params: Params, running: LayerMoments, batch: Examples, key: PRNGKey):
        del key
        (x_BxD, y_B), own = batch, {}
        h_CxHxWxB = jnp.moveaxis(x_BxD.T.reshape(*image, -1), 2, 0)
        *convolutions, output = sorted(params)
        for i, name in enumerate(convolutions):
            product = convolve(h_CxHxWxB, params[name]["w"], 1 if i else stride)
            branch, own[name] = activate(net, params[name], product, running.get(name))
            h_CxHxWxB = h_CxHxWxB + branch if residual and i else branch
        h_CxB, last = jnp.mean(h_CxHxWxB, axis=(1, 2)), {output: params[output]}
        logits_KxB, _ = apply_dense(net, specs, last, h_CxB, running)
        return cross_entropy(logits_KxB, y_B), own

    return network_task(net, init, measure, specs=specs, batch_size=batch_size)
