"""Attention, and the norm before it; features first, places last.

Shapes in names: D features, N = BT places of B sequences of T; H heads, K features of
each, S places that are attended to.
"""

import jax
import jax.numpy as jnp

from lopt.base import Array


def rms_norm(h_DxN: Array, gain_D: Array) -> Array:
    """h / √(mean h² + 10⁻⁶), times a gain.

    References:
      Zhang and Sennrich, Root mean square layer normalization, arXiv 1910.07467, 2019.
    """
    mean_square_1xN = jnp.mean(h_DxN**2, axis=0, keepdims=True)
    return h_DxN * jax.lax.rsqrt(mean_square_1xN + 1e-6) * gain_D[:, None]


def causal_attention(
    q_DxN: Array, k_DxN: Array, v_DxN: Array, *, num_heads: int, length: int, scale: float
) -> Array:
    """For each place Σ_s v_s softmax_s(scale qᵀk_s) over its past and itself, [D, N].

    Args:
      q_DxN: queries, N being sequences × `length`; keys and values likewise.
      num_heads: H, that the features are shared out to, one after the other.
      length: T, places of a sequence.
      scale: of the scores.

    References:
      Vaswani et al., Attention is all you need, arXiv 1706.03762, 2017.
    """
    heads = num_heads, q_DxN.shape[0] // num_heads, -1, length
    q_HxKxBxT, k_HxKxBxS, v_HxKxBxS = (x.reshape(heads) for x in (q_DxN, k_DxN, v_DxN))
    scores_HxBxTxS = scale * jnp.einsum("hkbt,hkbs->hbts", q_HxKxBxT, k_HxKxBxS)
    past_TxS = jnp.tril(jnp.ones((length, length), bool))
    scores_HxBxTxS = jnp.where(past_TxS[None, None], scores_HxBxTxS, -jnp.inf)
    weights_HxBxTxS = jax.nn.softmax(scores_HxBxTxS, axis=-1)
    mixed_HxKxBxT = jnp.einsum("hbts,hkbs->hkbt", weights_HxBxTxS, v_HxKxBxS)
    return mixed_HxKxBxT.reshape(q_DxN.shape)
