"""Products of a layer's weights, laid out as a CPU is fast at them.

On CPUs, XLA gives a product to its fast library only where the left side is summed over
its last axis, and that is fastest where the right side is summed over its first and has
many columns; any other product takes up to twice as long. A compiler that is free to do
so moves transpositions into products; barriers hold them where they are. Both functions
return Wᵀ x [O, B], one example a column, and have its derivatives.

Shapes in names: B examples, I inputs and O outputs of a layer.
"""

import jax

from lopt.base import Array

_hold = jax.lax.optimization_barrier


def _product(w_IxO: Array, x_IxB: Array) -> Array:
    return _hold(w_IxO.T) @ x_IxB


@jax.custom_vjp
def of_examples(w_IxO: Array, x_BxI: Array) -> Array:
    """Wᵀ xᵀ [O, B] of data, one example a row."""
    return _product(w_IxO, _hold(x_BxI.T))


def _of_examples(w_IxO: Array, x_BxI: Array):
    return _product(w_IxO, _hold(x_BxI.T)), (w_IxO, x_BxI)


def _of_examples_back(kept, dz_OxB: Array):
    w_IxO, x_BxI = kept
    return _hold(x_BxI.T) @ _hold(dz_OxB.T), (w_IxO @ dz_OxB).T


@jax.custom_vjp
def of_features(w_IxO: Array, h_IxB: Array) -> Array:
    """Wᵀ h [O, B] of what the layer before has made, one example a column."""
    return _product(w_IxO, h_IxB)


def _of_features(w_IxO: Array, h_IxB: Array):
    return _product(w_IxO, h_IxB), (w_IxO, h_IxB)


def _of_features_back(kept, dz_OxB: Array):
    w_IxO, h_IxB = kept
    return _hold(dz_OxB @ h_IxB.T).T, w_IxO @ dz_OxB


of_examples.defvjp(_of_examples, _of_examples_back)
of_features.defvjp(_of_features, _of_features_back)
