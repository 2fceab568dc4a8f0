"""Any architecture with a cosine, weight decay and a law of depth around it.

    lopt meta-train quick --optimizer tasks/scheduled.py:scheduled --out runs/scheduled \
      --set optimizer.architecture=adafac_mlp --set optimizer.step_mult=0.01

Learned optimizers are optax transformations, and what is chained with them while they
are meta-trained belongs to them: this one is exported and loaded like any other.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

import lopt
from lopt import checks, mup
from lopt.optimizers import OPTIMIZERS

LAYERS = 4
"""Of a network whose rate does not depend on c, and where nothing is known of it."""


def scheduled(
    *, architecture: str, weight_decay: float = 0.02, **options: Any
) -> lopt.LearnedOptimizer:
    """p ← p + ½ (1 + cos(π t/T)) (4/L)^c (s u - ω p), u an architecture's update.

    ω p is of matrices alone. L is the number of layers, where specs tell it: each of them
    moves the output by as much, so that c starts at 1; for gradient descent Jelassi et
    al. derive 3/2 (2023, arXiv 2305.07810). s, which starts at 1, ω and c are learned.

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
            "log_step": jnp.zeros(()),
            "log_decay": jnp.asarray(math.log(weight_decay)),
            "depth_exponent": jnp.ones(()),
        }

    def opt_fn(theta, *, specs=None, num_steps=None):
        if num_steps is None:
            raise TypeError("a schedule needs `num_steps`, the length of a run")
        depth = (LAYERS / num_layers(specs)) ** theta["depth_exponent"]

        def rate(step):
            progress = jnp.minimum(step / num_steps, 1.0)
            return depth * 0.5 * (1 + jnp.cos(jnp.pi * progress))

        return optax.chain(
            inner.opt_fn(theta["architecture"], specs=specs, num_steps=num_steps),
            optax.scale(jnp.exp(theta["log_step"])),
            optax.add_decayed_weights(-jnp.exp(theta["log_decay"]), mask=matrices(specs)),
            optax.scale_by_schedule(rate),
        )

    return lopt.LearnedOptimizer(init, opt_fn)


def num_layers(specs: Any) -> int:
    """Weight tensors in a row, as far as they are known."""
    numbers = [spec.num_layers for spec in jax.tree.leaves(specs)]
    return max((n for n in numbers if n), default=LAYERS)


def matrices(specs: Any) -> Any:
    """Of parameters, which decay."""

    def mask(params):
        known = mup.infer_specs(params) if specs is None else specs
        return jax.tree.map(lambda spec: spec.is_matrix, known)

    return mask
