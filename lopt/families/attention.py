"""Attention, and the norm before it; features first, places last.

Shapes in names: D features, N = BT places of B sequences of T; H heads, K features of
each, S places that are attended to.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lopt.base import Array

Weigh = Callable[[Array], Array]
"""From scores [H, B, T, S] to the weights of what is attended to, of the same shape."""


def rms_norm(h_DxN: Array, gain_D: Array) -> Array:
    """h / √(mean h² + 10⁻⁶), times a gain.

    References:
      Zhang and Sennrich, Root mean square layer normalization, arXiv 1910.07467, 2019.
    """
    mean_square_1xN = jnp.mean(h_DxN**2, axis=0, keepdims=True)
    return h_DxN * jax.lax.rsqrt(mean_square_1xN + 1e-6) * gain_D[:, None]


def attention(
    q_DxN: Array,
    k_DxN: Array,
    v_DxN: Array,
    *,
    num_heads: int,
    length: int,
    scale: float,
    weigh: Weigh,
) -> Array:
    """For each place Σ_s v_s weigh(scale qᵀk)_s over its sequence, [D, N].

    Args:
      q_DxN: queries, N being sequences × `length`; keys and values likewise.
      num_heads: H, that the features are shared out to, one after the other.
      length: T, places of a sequence.
      scale: of the scores.
      weigh: a softmax over S for most.

    References:
      Vaswani et al., Attention is all you need, arXiv 1706.03762, 2017.
    """
    heads = num_heads, q_DxN.shape[0] // num_heads, -1, length
    q_HxKxBxT, k_HxKxBxS, v_HxKxBxS = (x.reshape(heads) for x in (q_DxN, k_DxN, v_DxN))
    scores_HxBxTxS = scale * jnp.einsum("hkbt,hkbs->hbts", q_HxKxBxT, k_HxKxBxS)
    weights_HxBxTxS = weigh(scores_HxBxTxS)
    mixed_HxKxBxT = jnp.einsum("hbts,hkbs->hkbt", weights_HxBxTxS, v_HxKxBxS)
    return mixed_HxKxBxT.reshape(q_DxN.shape)


def softmax(scores_HxBxTxS: Array, seen_TxS: Array | None = None) -> Array:
    """Over all places that are seen, which are all where nothing else is said."""
    if seen_TxS is not None:
        scores_HxBxTxS = jnp.where(seen_TxS[None, None], scores_HxBxTxS, -jnp.inf)
    return jax.nn.softmax(scores_HxBxTxS, axis=-1)


def softmax_of_past(scores_HxBxTxS: Array) -> Array:
    """Over a place's past and itself."""
    length = scores_HxBxTxS.shape[-1]
    return softmax(scores_HxBxTxS, jnp.tril(jnp.ones((length, length), bool)))


def linear(scores_HxBxTxS: Array, seen_TxS: Array) -> Array:
    """The scores themselves, over the number of places that are seen."""
    shares_TxS = seen_TxS / jnp.sum(seen_TxS, axis=1, keepdims=True)
    return scores_HxBxTxS * shares_TxS[None, None]
