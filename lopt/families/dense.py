"""Rows of dense layers, the network of several families.

    h_0 = x,    h_l = act(norm(h_{l-1} W_l) + b_l),    y = f h_L W_out + b_out

Shapes in names: B examples of a batch, D inputs of a layer.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import jax
import jax.numpy as jnp

from lopt import mup
from lopt.base import Array, Params, PRNGKey, Role, Specs
from lopt.families.checks import check_choices, check_integers, check_numbers
from lopt.families.layers import (
    ACTIVATIONS,
    INITS,
    NORMALIZATIONS,
    draw_weights,
    layer_names,
    layer_specs,
)


@dataclass(frozen=True, kw_only=True)
class Dense:
    """One network, or several whose layers are numbered through.

    Attributes:
      ends: the numbers of inputs and of outputs of each network.
      width: units of each hidden layer.
      depth: number of hidden layers of each network.
      activation: "relu", "tanh", "gelu" or "silu".
      normalization: "layer" normalizes each hidden layer before its gain and bias.
      init: "lecun", "he" or "uniform": the distribution that weights start from.
      form: "mup" multiplies the output weights' product by base_width / width; "plain"
        does not.
      base_width: the width at which both forms agree.
      output_init: what the initial weights of the last layer of all are multiplied by.

    Raises:
      BrokenRule: an option is out of range.
    """

    ends: tuple[tuple[int, int], ...]
    width: int
    depth: int
    activation: str
    normalization: str
    init: str
    form: mup.Form
    base_width: int
    output_init: float

    def __post_init__(self):
        check_integers(1, width=self.width, base_width=self.base_width)
        check_integers(0, depth=self.depth)
        check_numbers(
            lambda v: 0 <= v < math.inf,
            "be a number of at least 0",
            output_init=self.output_init,
        )
        check_choices(ACTIVATIONS, activation=self.activation)
        check_choices(NORMALIZATIONS, normalization=self.normalization)
        check_choices(INITS, init=self.init)
        check_choices(mup.FORMS, form=self.form)

    @property
    def names(self) -> list[str]:
        """The layers, in order."""
        return layer_names(len(self.ends) * (self.depth + 1))

    @property
    def outputs(self) -> list[str]:
        """The last layer of each network."""
        return self.names[self.depth :: self.depth + 1]


def init_dense(net: Dense, key: PRNGKey, width: int | None = None) -> Params:
    """Initial parameters; None: of the net's own width."""
    hidden = [net.width if width is None else width] * net.depth
    shapes = [
        pair for first, last in net.ends for pair in pairwise([first, *hidden, last])
    ]
    params = {}
    for name, w in zip(net.names, draw_weights(key, shapes, net.init), strict=True):
        params[name] = {"w": w, "b": jnp.zeros(w.shape[1])}
        if net.normalization == "layer" and name not in net.outputs:
            params[name]["scale"] = jnp.ones(w.shape[1])
    params[net.outputs[-1]]["w"] *= net.output_init
    return params


@cache
def dense_specs(net: Dense) -> Specs:
    """The specs of a net's parameters."""
    roles: dict[str, Role] = {f"{name}/w": "hidden" for name in net.names}
    roles |= {f"{name}/w": "input" for name in net.names[:: net.depth + 1]}
    roles |= {f"{name}/w": "output" for name in net.outputs}
    if net.normalization == "layer":
        hidden = [name for name in net.names if name not in net.outputs]
        roles |= {f"{name}/scale": "norm" for name in hidden}
    return layer_specs(
        lambda key, width: init_dense(net, key, width),
        width=net.width,
        base_width=net.base_width,
        roles=roles,
        form=net.form,
    )


def apply_dense(net: Dense, params: Params, x_DxB: Array, which: int = 0) -> Array:
    """What one of the networks makes of x; examples last, for products of few features
    are faster so."""
    first = which * (net.depth + 1)
    *hidden, output = net.names[first : first + net.depth + 1]
    h_DxB = x_DxB
    for layer in (params[name] for name in hidden):
        h_DxB = layer["w"].T @ h_DxB
        if net.normalization == "layer":
            h_DxB = jax.nn.standardize(h_DxB, axis=0) * layer["scale"][:, None]
        h_DxB = ACTIVATIONS[net.activation](h_DxB + layer["b"][:, None])
    forward = dense_specs(net)[output]["w"].forward
    return forward * (params[output]["w"].T @ h_DxB) + params[output]["b"][:, None]
