"""Networks of dense layers.

Shapes in names: B examples of a batch, D inputs of a layer.
"""

from itertools import pairwise

from lopt.base import Array, Params, Specs
from lopt.families.batch_norm import LayerMoments
from lopt.families.layers import preactivation
from lopt.families.network import Network, Shapes, activate
from lopt.numerics import product


def dense_shapes(net: Network, *ends: tuple[int, int]) -> Shapes:
    """Of networks one after the other, each between these numbers of inputs and outputs,
    each with its own `depth` hidden layers."""

    def shapes(width: int) -> list[tuple[int, int]]:
        rows = [[first, *[width] * net.depth, last] for first, last in ends]
        return [pair for row in rows for pair in pairwise(row)]

    return shapes


def apply_dense(
    net: Network,
    specs: Specs,
    layers: Params,
    x_DxB: Array,
    running: LayerMoments,
) -> tuple[Array, LayerMoments]:
    """What layers in a row make of x, and the moments of their batch normalization.

    Examples are last, for products of few features are faster so.
    """
    *hidden, output = sorted(layers)
    h_DxB, own = x_DxB, {}
    for name in hidden:
        h_DxB = product(layers[name]["w"], h_DxB)
        h_DxB, own[name] = activate(net, layers[name], h_DxB, running.get(name))
    y_DxB = specs[output]["w"].forward * product(layers[output]["w"], h_DxB)
    return preactivation(y_DxB + layers[output]["b"][:, None]), own
