"""What families of classifiers share: the loss, its bound, and the metric `accuracy`.

Shapes in names: B examples of a batch, C classes.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lopt.base import Array, Split


def count_classes(data: Mapping[Split, Any]) -> int:
    """C, one more than the largest label of any split."""
    return 1 + max(int(y.max()) for _, y in data.values())


def loss_bound(num_classes: int) -> float:
    """1.5 times the loss of a guess."""
    return 1.5 * math.log(num_classes)


def cross_entropy(logits_CxB: Array, y_B: Array) -> tuple[Array, dict[str, Array]]:
    """Mean softmax cross-entropy in nats; metrics: `accuracy`. Examples are last."""
    # One-hot, because a gather's gradient is a scatter, which is slow under vmap.
    num_classes = logits_CxB.shape[0]
    target_CxB = jax.nn.one_hot(y_B, num_classes, dtype=logits_CxB.dtype, axis=0)
    log_p_CxB = jax.nn.log_softmax(logits_CxB, axis=0)
    correct_B = jnp.argmax(logits_CxB, axis=0) == y_B
    metrics = {"accuracy": jnp.mean(correct_B, dtype=logits_CxB.dtype)}
    return -jnp.mean(jnp.sum(target_CxB * log_p_CxB, axis=0)), metrics
