"""What networks of several families are made of: initial weights, activations, specs.

Parameters are a dict of layers, each a dict of tensors; the layers' names sort in the
order of the network, as jax sorts the keys of dicts.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lopt import mup, prng
from lopt.base import Array, Params, PRNGKey, Role, Specs

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}
INITS: dict[str, tuple[Callable[..., Array], float]] = {
    "lecun": (prng.normal, 1.0),
    "he": (prng.normal, 2.0),
    "uniform": (lambda *args: 3**0.5 * (2 * prng.uniform(*args) - 1), 1 / 3),
}
"""A law of unit variance, and the variance of weights times fan_in. "uniform" is what
torch's `Linear` has."""
STARTS = {"gain": 1.0, "bias": 0.0}
OUTPUT_INIT = 0.1  # of the initial output weights: the first loss is near a guess's
ROLES: dict[str, Role] = {
    "bytes": "embedding",
    "positions": "embedding",
    "inputs": "input",
    "gain": "norm",
    "outputs": "output",
    "logits": "output",
}
"""Of tensors by their names; other matrices are hidden weights, other vectors biases."""

LayerShapes = Mapping[str, tuple[int, ...]]
"""The shape of each tensor of a layer."""


def preactivation(h: Array) -> Array:
    """`h` itself, marked for what reads the inside of a loss: the coordinate check."""
    return checkpoint_name(h, "preactivation")


def layer_names(num_layers: int) -> list[str]:
    """Names that sort in the order of the layers."""
    digits = len(str(num_layers - 1))
    return [f"layer_{i:0{digits}}" for i in range(num_layers)]


def draw_weights(
    key: PRNGKey, shapes: Sequence[tuple[int, ...]], init: str = "lecun"
) -> list[Array]:
    """Initial weights of these shapes, their last axis being the output."""
    draw, gain = INITS[init]
    # One draw for all layers: each further one costs compile time in every program.
    noise = draw(key, sum(map(math.prod, shapes)))
    weights, used = [], 0
    for shape in shapes:
        w = noise[used : used + math.prod(shape)].reshape(shape)
        used += math.prod(shape)
        weights.append(w * math.sqrt(gain / math.prod(shape[:-1])))
    return weights


def draw_layers(key: PRNGKey, shapes: Sequence[LayerShapes]) -> Params:
    """Initial layers of these tensors: gains 1, biases 0, small output weights."""
    matrices = [s for layer in shapes for s in layer.values() if len(s) > 1]
    drawn = iter(draw_weights(key, matrices))
    layers = [
        {
            name: next(drawn) if len(shape) > 1 else jnp.full(shape, STARTS[name])
            for name, shape in layer.items()
        }
        for layer in shapes
    ]
    for name in layers[-1]:
        if ROLES[name] == "output":
            layers[-1][name] *= OUTPUT_INIT
    return dict(zip(layer_names(len(layers)), layers, strict=True))


def layer_specs(
    init: Callable[[PRNGKey, int], Params],
    *,
    width: int,
    base_width: int,
    roles: Mapping[str, Role],
    form: mup.Form,
) -> Specs:
    """Specs of what `init(key, width)` makes, each tensor's depth being its layer's."""

    def shapes(width: int) -> Params:
        return jax.eval_shape(lambda key: init(key, width), jax.random.key(0))

    specs = mup.param_specs(
        shapes(width), base_params=shapes(base_width), roles=roles, form=form
    )
    last = max(len(specs) - 1, 1)
    for i, name in enumerate(sorted(specs)):
        place = partial(replace, depth=i / last, num_layers=len(specs))
        specs[name] = jax.tree.map(place, specs[name])
    return specs


def specs_by_name(init: Callable[[PRNGKey, int], Params], net: Any) -> Specs:
    """`layer_specs` with the roles in `ROLES`, of a net with these options of theirs."""
    sizes = {"width": net.width, "base_width": net.base_width}
    params = jax.eval_shape(lambda key: init(key, net.width), jax.random.key(0))
    roles: dict[str, Role] = {
        f"{layer}/{tensor}": ROLES[tensor]
        for layer, tensors in params.items()
        for tensor in tensors.keys() & ROLES
    }
    return layer_specs(init, roles=roles, form=net.form, **sizes)
