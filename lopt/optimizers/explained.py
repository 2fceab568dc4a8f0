"""What `layerwise` decided, read back from its state: for people, not for training."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from lopt.base import MetaParams
from lopt.optimizers import policy
from lopt.optimizers.layerwise import LayerwiseState, _decide, _table
from lopt.packing import Packing


def layerwise_policy(
    theta: MetaParams,
    state: LayerwiseState,
    pack: Packing,
    num_steps: ArrayLike,
    options: Mapping[str, Any],
) -> policy.Policy:
    """The policy of the update that led to a state.

    Args:
      theta: meta-parameters.
      state: after an update.
      pack: of the parameters' specs; the policy is in the order of its tensors.
      num_steps: length of the run.
      options: all of those of the factory `layerwise`.
    """
    bases, logits = options["bases"], options["prior_logits"]
    prior = policy.Prior(
        learning_rate=options["learning_rate"],
        decay_steps=options["decay_steps"],
        final=options["final"],
        weight_decay=options["weight_decay"],
        logits=tuple(float(logits.get(name, 0.0)) for name in bases),
    )
    return _decide(
        theta,
        _table(bases),
        prior,
        pack,
        state.averages,
        state.step - 1,
        jnp.asarray(num_steps, jnp.float32),
    )
