"""Plain mathematics, written for how it is compiled and differentiated.

Products: on CPUs, XLA gives a product to its fast library only where the left side is
summed over its last axis, and that is fastest where the right side is summed over its
first; any other product takes up to twice as long. A compiler that is free to do so moves
transpositions into products; barriers keep them where they are written.
"""

import jax
import jax.numpy as jnp

from lopt.base import Array

FEW_OUTPUTS = 16
"""Up to so many, a gradient is made [O, I]: rows that short are slower to make than to
transpose."""

_keep = jax.lax.optimization_barrier


@jax.custom_vjp
def product(w_IxO: Array, x_IxB: Array) -> Array:
    """Wᵀ x [O, B] of a layer with I inputs and O outputs; examples are last."""
    return _keep(w_IxO.T) @ _keep(x_IxB)


def _forward(w_IxO: Array, x_IxB: Array):
    # Not `product` itself: it could not be differentiated in forward mode.
    return _keep(w_IxO.T) @ _keep(x_IxB), (w_IxO, x_IxB)


def _backward(kept, dz_OxB: Array):
    w_IxO, x_IxB = kept
    if len(dz_OxB) <= FEW_OUTPUTS:
        dw_IxO = _keep(dz_OxB @ x_IxB.T).T
    else:
        dw_IxO = _keep(x_IxB) @ _keep(dz_OxB.T)
    return dw_IxO, w_IxO @ dz_OxB


product.defvjp(_forward, _backward)


def root(x: Array) -> Array:
    """√x of x ≥ 0, but 1e-19 at 0, with a derivative of 0 there.

    That of sqrt is infinite, and infinity times a derivative of 0 is no number.
    """
    return jnp.sqrt(jnp.maximum(x, jnp.finfo(jnp.float32).tiny))
