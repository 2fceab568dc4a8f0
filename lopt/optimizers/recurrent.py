"""The LSTM cell that optimizers with one recurrent row per tensor share.

References:
  Hochreiter, Schmidhuber, Long short-term memory, 1997, Neural Computation 9 (8). The 1
  in the forget gate: Jozefowicz, Zaremba, Sutskever, An empirical exploration of
  recurrent network architectures, 2015, ICML.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lopt import features, prng
from lopt.base import Array, MetaParams, PRNGKey, PyTree


def tensors(tree: PyTree) -> list[Array]:
    """The tensors that have elements, in the precision of their statistics."""
    leaves = map(features.at_least_float32, jax.tree.leaves(tree))
    return [x for x in leaves if x.size]


def as_tree(values: Sequence[Any], like: PyTree, *, empty: Callable) -> PyTree:
    """A tree of one value for each of `tensors`, and of `empty(x)` for the others."""
    leaves, treedef = jax.tree.flatten(like)
    rest = iter(values)
    return treedef.unflatten([next(rest) if x.size else empty(x) for x in leaves])


class LstmState(NamedTuple):
    """One row for every tensor."""

    hidden: Array  # shape=[T, H]
    cell: Array  # shape=[T, H]


def init_linear(key: PRNGKey, n_in: int, n_out: int) -> MetaParams:
    """Weights `w` [n_in, n_out], `b` [n_out] of y = x w + b.

    w is normal with standard deviation 1/√n_in, cut at two standard deviations; b is 0.
    """
    w = prng.truncated_normal(key, n_in, n_out)
    return {"w": w / n_in**0.5, "b": jnp.zeros(n_out)}


def settled(theta: MetaParams, scale: float, bias: float) -> MetaParams:
    """A linear map that says about this, whatever it sees."""
    return {"w": scale * theta["w"], "b": jnp.full_like(theta["b"], bias)}


def init_lstm(key: PRNGKey, n_in: int, hidden_size: int) -> MetaParams:
    """Theta of an LSTM: `linear` of its four gates and its starting state [1, H]."""
    return {
        "linear": init_linear(key, n_in + hidden_size, 4 * hidden_size),
        "hidden": jnp.zeros((1, hidden_size)),
        "cell": jnp.zeros((1, hidden_size)),
    }


def start_lstm(theta: MetaParams, num_rows: int) -> LstmState:
    """The learned starting state, once for every row."""
    return LstmState(
        *(jnp.repeat(theta[name], num_rows, axis=0) for name in ("hidden", "cell"))
    )


def linear(theta: MetaParams, x: Array) -> Array:
    """x w + b for rows x [T, n_in]."""
    return x @ theta["w"] + theta["b"][None]


def lstm(theta: MetaParams, x: Array, state: LstmState) -> LstmState:
    """One step; the output is the new `hidden`.

    (i, g, f, o) = [x, h] w + b; c ← σ(f + 1) c + σ(i) tanh(g); h ← σ(o) tanh(c).
    """
    z = linear(theta["linear"], jnp.concatenate([x, state.hidden], axis=1))
    i, g, f, o = jnp.split(z, 4, axis=1)
    forget = jax.nn.sigmoid(f + 1.0)
    cell = forget * state.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return LstmState(jax.nn.sigmoid(o) * jnp.tanh(cell), cell)
