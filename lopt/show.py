"""What a learned optimizer does over a run: learning rate and mixture of every role.

The optimizer trains a small reference network, the default of the family `mlp`, and what
its policy decided at every step is averaged over the tensors of one role.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from lopt.checkpoint import Checkpoint
from lopt.decisions import has_policy, recorder
from lopt.errors import CheckpointError
from lopt.families import FAMILIES
from lopt.files.fileformat import disk_error
from lopt.packing import packing

BARS = " ▁▂▃▄▅▆▇█"
COLORS = ("#c1272d", "#1f5fa8", "#2a9d5c", "#d98a1f", "#8d5fb0", "#3aa6b9")


@dataclass(frozen=True, kw_only=True)
class PolicyCurves:
    """What an optimizer decided over a run of T steps, for R roles and K bases.

    Attributes:
      task: the name of the task that it trained.
      roles: of tensors, in the order of the network.
      bases: whose directions are mixed.
      step_size: [T, R], geometric mean over tensors.
      mixture: [T, R, K], mean over tensors; sums to one over bases.
      weight_decay: [T, R], mean over tensors.
      losses: [T], of minibatches.
    """

    task: str
    roles: tuple[str, ...]
    bases: tuple[str, ...]
    step_size: np.ndarray
    mixture: np.ndarray
    weight_decay: np.ndarray
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
    task = FAMILIES["mlp"]()
    key = jax.random.key(seed)
    steps = jnp.arange(num_steps)
    record = jax.jit(recorder(checkpoint, task))
    found = record(key, steps, jnp.asarray(num_steps), task.data)
    losses, policies = jax.device_get(found)
    specs = packing(task.specs).specs
    roles = tuple(dict.fromkeys(spec.role for spec in specs))
    # [R, L]: which tensors are averaged for a role.
    member = np.array([[spec.role == role for spec in specs] for role in roles], float)
    weights = member / member.sum(axis=1, keepdims=True)
    return PolicyCurves(
        task=task.name,
        roles=roles,
        bases=tuple(checkpoint.header.options["bases"]),
        step_size=np.exp(np.log(policies.step_size) @ weights.T),
        mixture=np.einsum("rl,tlk->trk", weights, policies.mixture),
        weight_decay=policies.weight_decay @ weights.T,
        losses=losses,
    )


def rows(curves: PolicyCurves) -> list[tuple[str, str, str, str]]:
    """For each role: learning rate at start, middle and end, its course, and the mixture.

    The course is drawn in block characters, on a log scale between the lowest and the
    highest learning rate of all roles.
    """
    table = []
    logs = np.log(curves.step_size)
    low, high = logs.min(), logs.max()
    places = np.linspace(0, len(logs) - 1, 24).astype(int)
    for r, role in enumerate(curves.roles):
        rate = curves.step_size[[0, len(logs) // 2, -1], r]
        heights = (logs[places, r] - low) / max(high - low, 1e-9)
        course = "".join(BARS[1 + round(7 * float(h))] for h in heights)
        mixture = curves.mixture[:, r].mean(axis=0)
        shares = [
            f"{name} {share:.0%}"
            for share, name in sorted(zip(mixture, curves.bases, strict=True))[::-1]
            if share >= 0.005
        ]
        rates = " → ".join(f"{x:.2g}" for x in rate)
        table.append((role, rates, course, ", ".join(shares)))
    return table


def figure(curves: PolicyCurves) -> Figure:
    """Learning rates of all roles, and beside them the mixture of each."""
    num_roles = len(curves.roles)
    drawing = Figure(figsize=(3.2 + 2.2 * num_roles, 3.2), layout="constrained")
    first, *others = drawing.subplots(
        1, num_roles + 1, width_ratios=[1.4] + [1.0] * num_roles
    )
    steps = np.arange(len(curves.losses))
    for r, role in enumerate(curves.roles):
        color = COLORS[r % len(COLORS)]
        first.plot(steps, curves.step_size[:, r], color=color, label=role)
    first.set(title="learning rate λ", xlabel="step", yscale="log")
    first.legend(frameon=False)
    for r, axes in enumerate(others):
        axes.stackplot(
            steps,
            curves.mixture[:, r].T,
            labels=curves.bases,
            colors=COLORS[: len(curves.bases)],
            alpha=0.8,
        )
        axes.set(title=f"mixture: {curves.roles[r]}", xlabel="step", ylim=(0, 1))
        axes.margins(0)
    others[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
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
