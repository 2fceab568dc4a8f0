"""Any architecture with a cosine and weight decay around it.

    lopt meta-train quick --optimizer tasks/scheduled.py:scheduled --out runs/scheduled \
      --set optimizer.architecture=adafac_mlp --set optimizer.step_mult=0.01

Learned optimizers are optax transformations, and what is chained with them while they
are meta-trained belongs to them: this one is exported and loaded like any other.
"""

import math
from typing import Any

import jax.numpy as jnp
import optax

import lopt
from lopt import checks
from lopt.optimizers import OPTIMIZERS


def scheduled(
    *, architecture: str, weight_decay: float = 0.01, **options: Any
) -> lopt.LearnedOptimizer:
    """p ← p + ½ (1 + cos(π t/T)) (u - ω p), u the update of an architecture.

    Args:
      architecture: a name of `lopt list optimizers`.
      weight_decay: ω that meta-training starts from, and does not move far from; of an
        AdamW the product of its learning rate and decay.
      options: of the architecture.
    """
    checks.check_choices(OPTIMIZERS, architecture=architecture)
    checks.check_positive(weight_decay=weight_decay)
    inner = OPTIMIZERS[architecture](**options)

    def init(key):
        return {
            "architecture": inner.init(key),
            "log_decay": jnp.asarray(math.log(weight_decay)),
        }

    def opt_fn(theta, *, specs=None, num_steps=None):
        if num_steps is None:
            raise TypeError("a schedule needs `num_steps`, the length of a run")

        def cosine(step):
            return 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / num_steps, 1.0)))

        return optax.chain(
            inner.opt_fn(theta["architecture"], specs=specs, num_steps=num_steps),
            optax.add_decayed_weights(-jnp.exp(theta["log_decay"])),
            optax.scale_by_schedule(cosine),
        )

    return lopt.LearnedOptimizer(init, opt_fn)
