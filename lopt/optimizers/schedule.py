"""`layerwise` without its network: decisions by place in the run and kind of tensor.

What a policy decided on average is frozen (lopt.evaluation.schedule records it), as
arrays of step sizes λ, mixtures μ, blends α and decays ω at POINTS places along a run,
for each recorded run length and kind of tensor. Nothing is measured any more.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lopt.base import Array, LearnedOptimizer, MetaParams, ParamSpec, PRNGKey
from lopt.errors import ConfigError
from lopt.optimizers.layerwise import layerwise_following
from lopt.optimizers.policy import Policy
from lopt.packing import Packing

POINTS = 100
"""Places along a run, denser at its start: at fractions (p / (POINTS − 1))²."""

Kind = tuple[str, bool]
"""A role, and whether the tensor is a matrix."""


class Means(NamedTuple):
    """Mean decisions of a policy."""

    lengths: tuple[int, ...]  # of runs, [N]
    kinds: tuple[Kind, ...]  # [Q], those that were seen; then those of unseen roles
    policy: Policy  # leaves [N, Q, POINTS, ...]

    def at(self, pack: Packing, step: Array, num_steps: Array) -> Policy:
        """What the tensors do now, interpolated between two places.

        A run length that was not recorded is treated as the nearest one, by ratio; a
        role that was not seen as the mean of all matrices, or of all others.
        """
        rows = jnp.asarray([self._row(spec) for spec in pack.specs], jnp.int32)
        distance = jnp.abs(jnp.log(jnp.asarray(self.lengths) / num_steps))
        nearest = jnp.argmin(distance)
        progress = jnp.clip(step / jnp.maximum(num_steps - 1, 1), 0.0, 1.0)
        place = jnp.sqrt(progress) * (POINTS - 1)
        low = jnp.clip(jnp.floor(place), 0, POINTS - 2).astype(jnp.int32)

        def interpolated(leaf: ArrayLike) -> Array:
            course = jnp.asarray(leaf)[nearest][rows]  # [L, POINTS, ...]
            before, after = course[:, low], course[:, low + 1]
            return before + (place - low) * (after - before)

        return jax.tree.map(interpolated, self.policy)

    def _row(self, spec: ParamSpec) -> int:
        """Where the means of a tensor are."""
        for kind in (kind_of(spec), ("", spec.is_matrix)):
            if kind in self.kinds:
                return self.kinds.index(kind)
        what = "matrices" if spec.is_matrix else "vectors"
        raise ConfigError(
            f"the schedule has seen no {what}: its optimizer's training tasks have none",
            hint="use the optimizer itself, or record it on tasks that have some",
        )


def kind_of(spec: ParamSpec) -> Kind:
    """What a tensor's decisions are averaged by."""
    return spec.role, spec.is_matrix


def places(num_steps: int) -> Array:
    """The steps whose decisions are kept, [POINTS], from 0 to the last one."""
    fraction = np.linspace(0.0, 1.0, POINTS) ** 2
    return jnp.asarray(np.rint(fraction * (num_steps - 1)), jnp.int32)


def schedule(
    *, lengths: Sequence[int], kinds: Sequence[Any], layerwise: Mapping[str, Any]
) -> LearnedOptimizer:
    """The optimizer that follows recorded decisions; it is not to be meta-trained.

    Args:
      lengths: N recorded run lengths.
      kinds: Q kinds of tensors: a role, "" for those not seen, and whether a matrix.
      layerwise: the options of the optimizer that decided.

    Returns:
      Its theta are the fields of `Policy`: `step_size` and `weight_decay` [N, Q, POINTS],
      `mixture` [N, Q, POINTS, bases] and `blend` [N, Q, POINTS, 1 + momenta].
    """
    known = tuple((role, is_matrix) for role, is_matrix in kinds)
    axes = (len(lengths), len(known), POINTS)

    def init(key: PRNGKey) -> MetaParams:
        del key
        mixture = jnp.zeros((*axes, len(layerwise["bases"])))
        blend = jnp.zeros((*axes, 1 + len(layerwise["momenta"])))
        zeros = jnp.zeros(axes)
        return Policy(zeros, mixture, blend, zeros)._asdict()

    def decide(theta: MetaParams, pack: Packing, step: Array, num_steps: Array) -> Policy:
        means = Means(tuple(lengths), known, Policy(**theta))
        return means.at(pack, step, num_steps)

    return LearnedOptimizer(init, layerwise_following(decide, layerwise))
