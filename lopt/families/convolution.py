"""Convolutions that are fast under vmap.

Shapes in names: C channels, H by W pixels, B examples of a batch, O output channels.
"""

import jax.numpy as jnp

from lopt.base import Array


def convolve(x_CxHxWxB: Array, w_HWIO: Array, stride: int = 1) -> Array:
    """A 3x3 convolution, padded with a pixel of zeros, one pixel in `stride` kept.

    One product of matrices over shifted copies: under vmap, where every particle has
    weights of its own, a CPU takes 15 times as long for XLA's convolution, and with
    `lopt.numerics.product`, which keeps the copies in memory, a third longer.
    """
    height, width = x_CxHxWxB.shape[1:3]
    padded = jnp.pad(x_CxHxWxB, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = jnp.concatenate(
        [
            padded[:, i : i + height : stride, j : j + width : stride]
            for i in range(3)
            for j in range(3)
        ]
    )
    w_NxO = w_HWIO.reshape(len(shifted), -1)
    product = w_NxO.T @ shifted.reshape(len(shifted), -1)
    return product.reshape(-1, *shifted.shape[1:])
