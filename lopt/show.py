"""What a learned optimizer does over a run: λ, ω, γ and mixture by role and depth.

The optimizer trains a small reference network of the family `mlp`, and what its policy
decided at every step is told in words and numbers, or drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from lopt.base import ROLES
from lopt.checkpoint import Checkpoint
from lopt.decisions import has_policy, recorder
from lopt.errors import CheckpointError
from lopt.families import FAMILIES
from lopt.files.fileformat import disk_error
from lopt.optimizers.policy import Policy
from lopt.packing import packing

BARS = " ▁▂▃▄▅▆▇█"
DEPTH = 3
"""Hidden layers of the reference network."""
MOST_PARTS = 3
"""Changes of the leading base that are told one by one are fewer."""


@dataclass(frozen=True, kw_only=True)
class PolicyCurves:
    """What an optimizer decided over a run of T steps, for L tensors and K bases.

    Attributes:
      task: the name of the task that it trained.
      tensors: their paths, those of one role together, in the order of the network.
      roles: of the tensors.
      bases: whose directions are mixed.
      policy: numpy, leaves [T, L, ...].
      losses: [T], of minibatches.
    """

    task: str
    tensors: tuple[str, ...]
    roles: tuple[str, ...]
    bases: tuple[str, ...]
    policy: Policy
    losses: np.ndarray


def policy_curves(
    checkpoint: Checkpoint, *, num_steps: int = 300, seed: int = 0
) -> PolicyCurves:
    """Trains the reference network and keeps what the policy decided.

    Raises:
      CheckpointError: the optimizer has no policy, or one of another network's tensors.
    """
    if not has_policy(checkpoint):
        raise CheckpointError(
            f"`{checkpoint.path}` has no policy that a picture could show",
            hint="this is for `layerwise` without an embedding of tensors",
        )
    task = FAMILIES["mlp"](depth=DEPTH)
    key = jax.random.key(seed)
    steps = jnp.arange(num_steps)
    record = jax.jit(recorder(checkpoint, task))
    found = record(key, steps, jnp.asarray(num_steps), task.data)
    losses, policies = jax.device_get(found)
    pack = packing(task.specs)
    leaves = [leaf for group in pack.groups for leaf in group]  # of each tensor
    paths = jax.tree_util.tree_flatten_with_path(task.specs)[0]
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    roles = [spec.role for spec in pack.specs]
    order = sorted(range(len(roles)), key=lambda i: (ROLES.index(roles[i]), leaves[i]))
    return PolicyCurves(
        task=task.name,
        tensors=tuple(names[leaves[i]] for i in order),
        roles=tuple(roles[i] for i in order),
        bases=tuple(checkpoint.header.options["bases"]),
        policy=jax.tree.map(lambda x: np.asarray(x)[:, order], policies),
        losses=losses,
    )


def rows(curves: PolicyCurves) -> list[tuple[str, str, str, str, str, str]]:
    """For each role: learning rate at start, middle and end, its course, decay, the
    gradient's share of the blend, and in words which base it prefers when.

    Means over the tensors of the role. The course is drawn in block characters, on a log
    scale between the lowest and the highest learning rate of all roles.
    """
    table, policy = [], curves.policy
    logs = np.log(policy.step_size)
    by_role = {role: _members(curves, role) for role in dict.fromkeys(curves.roles)}
    means = {role: logs[:, rows].mean(axis=1) for role, rows in by_role.items()}
    low, high = min(map(np.min, means.values())), max(map(np.max, means.values()))
    places = np.linspace(0, len(logs) - 1, 24).astype(int)
    for role, members in by_role.items():
        heights = (means[role][places] - low) / max(high - low, 1e-9)
        course = "".join(BARS[1 + round(7 * float(h))] for h in heights)
        decay = policy.weight_decay[:, members].mean(axis=1)
        gradient = policy.blend[:, members, 0].mean(axis=1)
        mixture = policy.mixture[:, members].mean(axis=1)
        numbers = _course(np.exp(means[role])), course, _course(decay), _course(gradient)
        table.append((role, *numbers, preference(curves.bases, mixture)))
    return table


def preference(bases: Sequence[str], mixture: np.ndarray) -> str:
    """In words, which base leads when, with its mean share meanwhile: mixture [T, K]."""
    leaders = mixture.argmax(axis=1)
    starts = [0, *(1 + np.flatnonzero(np.diff(leaders))), len(leaders)]
    parts = []
    for start, end in pairwise(starts):
        leader = leaders[start]
        share = mixture[start:end, leader].mean()
        since = f" from step {start}" if start else ""
        parts.append(f"{bases[leader]} {share:.0%}{since}")
    if len(parts) > MOST_PARTS:
        shares = sorted(zip(mixture.mean(axis=0), bases, strict=True), reverse=True)
        return "by turns " + ", ".join(f"{name} {share:.0%}" for share, name in shares)
    return ", then ".join(parts)


def _members(curves: PolicyCurves, role: str) -> list[int]:
    return [i for i, r in enumerate(curves.roles) if r == role]


def _course(values: np.ndarray) -> str:
    """At start, middle and end."""
    return " → ".join(f"{x:.2g}" for x in values[[0, len(values) // 2, -1]])


def figure(curves: PolicyCurves) -> Figure:
    """Heat maps of λ, ω, γ and every base's share: a row a tensor, by role and depth."""
    policy = curves.policy
    maps = {
        "log₁₀ learning rate λ": np.log10(policy.step_size),
        "weight decay ω": policy.weight_decay,
        "gradient's share γ": policy.blend[..., 0],
    }
    shares = {f"share of {b}": policy.mixture[..., k] for k, b in enumerate(curves.bases)}
    drawing = Figure(figsize=(2.5 + 2.6 * len(maps | shares), 3.2), layout="constrained")
    all_axes = drawing.subplots(1, len(maps | shares), sharey=True)
    for axes, (title, values) in zip(all_axes, (maps | shares).items(), strict=True):
        limits = {"vmin": 0.0, "vmax": 1.0} if title in shares else {}
        image = axes.imshow(values.T, aspect="auto", interpolation="nearest", **limits)
        axes.set(title=title, xlabel="step")
        drawing.colorbar(image, ax=axes, location="bottom")
    labels = [f"{r} {t}" for r, t in zip(curves.roles, curves.tensors, strict=True)]
    all_axes[0].set_yticks(range(len(labels)), labels)
    drawing.suptitle(f"what the policy decides while it trains {curves.task}")
    return drawing


def write_picture(curves: PolicyCurves, path: Path) -> None:
    """Draws the figure into a file whose suffix says the format, e.g. `.png`, `.svg`.

    Raises:
      CheckpointError: the disk refuses, or the suffix is of no picture.
    """
    try:
        figure(curves).savefig(path, dpi=150)
    except OSError as error:
        raise disk_error(path, error) from error
    except ValueError as error:
        raise CheckpointError(f"cannot draw into `{path}`: {error}") from error
