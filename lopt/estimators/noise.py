"""Perturbations of theta, and the credit that each one earns.

ε ~ N(0, σ²), σ one number, or one for each group of meta-parameters, and fixed or on its
way to another value. The score of a draw, ∇_θ log N(θ + ε; θ, σ²) = ε/σ², is what the
loss of a perturbed run is multiplied by; kept with its own σ, it stays right when σ
changes later in the run.

Perturbations of all meta-parameters are one vector, in the order of theta's leaves: a
program with as many arrays as leaves takes a quarter longer to compile.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lopt import prng
from lopt.base import Array, MetaParams, PRNGKey
from lopt.config import BrokenRule
from lopt.config.rules import as_type

Sigma = float | Mapping[str, float]
"""σ of all meta-parameters; or by path prefix, `default` being the rest's."""
DEFAULT = "default"


class Draw(NamedTuple):
    """Perturbations of all meta-parameters, and their scores."""

    noise: Array  # shape=[N, P], ε
    score: Array  # shape=[N, P], ε/σ²


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """How theta is perturbed.

    Attributes:
      sigma: standard deviation. A table maps path prefixes ("network/w0", or "network"
        for all of it) to numbers; the longest prefix that fits counts. Where it is 0,
        theta stays as it is.
      sigma_end: where it moves to, by equal factors in equal parts of the outer steps,
        in either form; None: it stays.

    Raises:
      BrokenRule: a σ that is not a positive number.
    """

    sigma: Sigma
    sigma_end: Sigma | None = None

    def __post_init__(self):
        _check(self.sigma, "sigma")
        if self.sigma_end is not None:
            _check(self.sigma_end, "sigma_end")

    def check(self, theta: MetaParams) -> None:
        """Raises `BrokenRule` unless prefixes and meta-parameters fit each other."""
        self._ends(theta)

    def draw(self, theta: MetaParams, keys: PRNGKey, progress: Array) -> Draw:
        """A perturbation of theta for each of the keys [N]; raises as `check`."""
        unit = jax.vmap(lambda key: prng.normal(key, size(theta)))(keys)
        sizes = [leaf.size for leaf in jax.tree.leaves(theta)]
        first, last = np.repeat(np.asarray(self._ends(theta)), sizes, axis=0).T
        # One number, where there is one, is not written out for every entry.
        if np.all(first == first[:1]) and np.all(last == last[:1]):
            first, last = first[:1], last[:1]
        unmoved = first == 0
        sigma = jnp.asarray(first, jnp.float32)
        if np.any(first != last):
            ratio = last / np.where(unmoved, 1.0, first)
            sigma = sigma * jnp.asarray(ratio, jnp.float32) ** progress
        if not np.any(unmoved):
            return Draw(sigma[None] * unit, unit / sigma[None])
        score = unit / jnp.where(unmoved, jnp.inf, sigma)[None]
        return Draw(sigma[None] * unit, score)

    def _ends(self, theta: MetaParams) -> list[tuple[float, float]]:
        """σ of each leaf of theta, first and last."""
        first = _for_leaves(theta, self.sigma, "sigma")
        if self.sigma_end is None:
            return list(zip(first, first, strict=True))
        last = _for_leaves(theta, self.sigma_end, "sigma_end")
        for a, b in zip(first, last, strict=True):
            if (a == 0) != (b == 0):
                rule = "be 0 where, and only where, `sigma` is"
                raise BrokenRule("sigma_end", rule, self.sigma_end)
        return list(zip(first, last, strict=True))


def size(theta: MetaParams) -> int:
    """P, how many meta-parameters there are."""
    return sum(leaf.size for leaf in jax.tree.leaves(theta))


def as_vector(theta: MetaParams) -> Array:
    """Theta's entries [P]."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(theta)])


def as_theta(vector: Array, theta: MetaParams) -> MetaParams:
    """Vectors [..., P] in the form of theta, leaves [..., *shape]."""
    leaves, treedef = jax.tree.flatten(theta)
    parts, used = [], 0
    for leaf in leaves:
        part = vector[..., used : used + leaf.size]
        parts.append(part.reshape(*vector.shape[:-1], *leaf.shape).astype(leaf.dtype))
        used += leaf.size
    return jax.tree.unflatten(treedef, parts)


def _check(sigma: Any, name: str) -> None:
    if isinstance(sigma, Mapping) and not sigma:
        raise BrokenRule(name, "have a number for some meta-parameters", sigma)
    table = sigma if isinstance(sigma, Mapping) else {"": sigma}
    for prefix, value in table.items():
        key = f"{name}.{prefix}" if prefix else name
        number = as_type(float, key, value)
        if not (number > 0 or (prefix and number == 0)):
            raise BrokenRule(key, "be positive", value)
    if not any(table.values()):
        raise BrokenRule(name, "be above 0 for some meta-parameters", sigma)


def _for_leaves(theta: MetaParams, sigma: Sigma, name: str) -> list[float]:
    """σ of each leaf of theta, in the order of its leaves."""
    entries, _ = jax.tree_util.tree_flatten_with_path(theta)
    if not isinstance(sigma, Mapping):
        return [float(sigma)] * len(entries)
    paths = ["/".join(str(getattr(k, "key", k)) for k in path) for path, _ in entries]
    fitting = [[p for p in sigma if f"{path}/".startswith(f"{p}/")] for path in paths]
    hint = "meta-parameters: " + ", ".join(f"`{path}`" for path in paths)
    for prefix in sigma:
        if prefix != DEFAULT and not any(prefix in fits for fits in fitting):
            rule = "name meta-parameters by a prefix of their paths"
            raise BrokenRule(name, rule, prefix, hint=hint)
    result = []
    for path, fits in zip(paths, fitting, strict=True):
        prefix = max(fits, key=len, default=DEFAULT)
        if prefix not in sigma:
            raise BrokenRule(name, f"have `{DEFAULT}` or a number for `{path}`", sigma)
        result.append(float(sigma[prefix]))
    return result
