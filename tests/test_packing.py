"""Tensors of one shape, stacked."""

import jax
import jax.numpy as jnp
import numpy as np
from trees import TREES, random_tree

from lopt import mup, packing


def test_packing_round_trip_and_sums(key):
    params = random_tree({**TREES["matrices"], **TREES["convolution"], "s": ()}, key)
    pack = packing.packing(mup.infer_specs(params))
    stacks = pack.pack(params)
    back = pack.unpack(stacks, params)
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.array_equal(a, b), params, back))
    leaves = jax.tree.leaves(params)
    order = [i for group in pack.groups for i in group]
    expected = [float(jnp.sum(leaves[i])) for i in order]
    np.testing.assert_allclose(pack.sums(stacks), expected, rtol=1e-4, atol=1e-5)
    ones = pack.spread(jnp.arange(float(len(leaves))))
    scaled = pack.unpack(
        tuple(s * jnp.ones_like(x) for s, x in zip(ones, stacks, strict=True)), params
    )
    for rank, i in enumerate(order):
        np.testing.assert_array_equal(jax.tree.leaves(scaled)[i], float(rank))


def test_matrices_follow_the_axes_of_the_spec(key):
    """A convolution's matrix is [fan_in, fan_out], whatever the layout."""
    kernel = jax.random.normal(key, (1, 3, 3, 2, 5))
    spec = mup.infer_specs({"k": kernel[0]})["k"]
    matrix = packing.as_matrices(kernel, spec)
    np.testing.assert_array_equal(matrix[0], np.asarray(kernel[0]).reshape(18, 5))
    np.testing.assert_array_equal(packing.from_matrices(matrix, spec), kernel)
    oihw = type(spec)(role="hidden", shape=(5, 2, 3, 3), in_axes=(1, 2, 3), out_axes=(0,))
    turned = jnp.transpose(kernel, (0, 4, 3, 1, 2))
    matrix = packing.as_matrices(turned, oihw)
    assert matrix.shape == (1, 18, 5)
    np.testing.assert_array_equal(packing.from_matrices(matrix, oihw), turned)
