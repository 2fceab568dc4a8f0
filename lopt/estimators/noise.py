"""Perturbations of theta, and the credit that each one earns.

ε ~ N(0, σ²), σ one number, or one for each group of meta-parameters, and fixed or on its
way to another value. The score of a draw, ∇_θ log N(θ + ε; θ, σ²) = ε/σ², is what the
loss of a perturbed run is multiplied by; kept with its own σ, it stays right when σ
changes later in the run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lopt.base import Array, MetaParams, PRNGKey
from lopt.config import BrokenRule
from lopt.config.rules import as_type

Sigma = float | Mapping[str, float]
"""σ of all meta-parameters; or by path prefix, `default` being the rest's."""
DEFAULT = "default"


class Draw(NamedTuple):
    """Perturbations and their scores, leaves [N, ...]."""

    noise: MetaParams  # ε
    score: MetaParams  # ε/σ²


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """How theta is perturbed.

    Attributes:
      sigma: standard deviation. A table maps path prefixes ("network/w0", or "network"
        for all of it) to numbers; the longest prefix that fits counts.
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
        leaves, treedef = jax.tree.flatten(theta)
        # One draw for all leaves: each further one costs compile time.
        size = sum(leaf.size for leaf in leaves)
        flat = jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)
        noise, score, used = [], [], 0
        for leaf, (first, last) in zip(leaves, self._ends(theta), strict=True):
            sigma = first if first == last else first * (last / first) ** progress
            part = flat[:, used : used + leaf.size].reshape(-1, *leaf.shape)
            noise.append((sigma * part).astype(leaf.dtype))
            score.append((part / sigma).astype(leaf.dtype))
            used += leaf.size
        return Draw(*(jax.tree.unflatten(treedef, x) for x in (noise, score)))

    def _ends(self, theta: MetaParams) -> list[tuple[float, float]]:
        """σ of each leaf of theta, first and last."""
        first = _for_leaves(theta, self.sigma, "sigma")
        if self.sigma_end is None:
            return list(zip(first, first, strict=True))
        last = _for_leaves(theta, self.sigma_end, "sigma_end")
        return list(zip(first, last, strict=True))


def nothing(theta: MetaParams, num: int) -> MetaParams:
    """Zeros, leaves [num, ...]."""
    return jax.tree.map(lambda t: jnp.zeros((num, *t.shape), t.dtype), theta)


def _check(sigma: Any, name: str) -> None:
    if isinstance(sigma, Mapping) and not sigma:
        raise BrokenRule(name, "have a number for some meta-parameters", sigma)
    table = sigma if isinstance(sigma, Mapping) else {"": sigma}
    for prefix, value in table.items():
        key = f"{name}.{prefix}" if prefix else name
        if not as_type(float, key, value) > 0:
            raise BrokenRule(key, "be positive", value)


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
