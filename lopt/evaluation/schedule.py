"""The control `schedule`: what a policy decides on average, frozen; it feels nothing.

The learned optimizer trains the tasks that it was meta-trained on, with every run length
that is compared. Its decisions are averaged over seeds, over the tensors of one kind
(their role, and whether they are matrices), and over tasks, at POINTS places along the
run. The control makes the same updates with these means in place of decisions,

    λ ← learning_rate · mean λ,    ω ← weight_decay · mean ω,

everything else as it is, and is tuned over both factors like a baseline. What the
learned optimizer is better by, it owes to adapting: to what it measures on the run, and
to what it knows of a tensor beside its kind. What the control is better by than
`static`, it owes to learning a schedule.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lopt.base import Array, LearnedOptimizer, MetaParams, Task
from lopt.checkpoint import Checkpoint
from lopt.compiling import compile_lowered
from lopt.config import RunConfig, Trust, load_suite
from lopt.decisions import has_policy, recorder
from lopt.errors import ConfigError
from lopt.evaluation.baselines import Baseline, Control
from lopt.evaluation.tuning import SearchSpace
from lopt.evaluation.workers import Notify, run_jobs
from lopt.files import hub, rundir
from lopt.optimizers.hand_designed import hyperparameters
from lopt.optimizers.layerwise import layerwise_following
from lopt.optimizers.policy import Policy
from lopt.optimizers.schedule import Kind, Means, kind_of, places
from lopt.packing import Packing, packing
from lopt.suites import build_tasks
from lopt.weights import run_of

SEEDS = 4
"""Runs that are averaged, for each task and run length."""

SPACE = SearchSpace(
    learning_rate=1.0,
    decays=(0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
    center_decay=3,
    schedules=(False,),
)
"""Of factors; at its center the means are followed as they are."""


def schedule(
    checkpoint: Checkpoint, *, name: str = "schedule", trust: Trust = False
) -> Control:
    """What the learned optimizer decides on average, frozen: what did adapting add?

    Args:
      checkpoint: the learned optimizer.
      name: what tables call it.
      trust: whether Python files that its training suite names may be run.

    Raises:
      ConfigError: the optimizer has no policy, or its training suite is not to be found.
    """
    require_policy(checkpoint)
    tasks = [entry.task for entry in build_tasks(training_suite(checkpoint), trust=trust)]

    def make(lengths: Sequence[int], devices: Sequence[Any], notify: Notify) -> Baseline:
        means = record(checkpoint, tasks, lengths, devices, notify)
        lopt = following(means, checkpoint.header.options)
        return Baseline(name=name, lopt=lopt, space=SPACE, control=True)

    return Control(name, make)


def require_policy(checkpoint: Checkpoint) -> None:
    """Raises `ConfigError` where there is nothing to freeze."""
    if not has_policy(checkpoint):
        raise ConfigError(
            f"a schedule is a frozen policy, and `{checkpoint.path.name}`, of "
            f"`{checkpoint.header.optimizer}`, has none that fits any network",
            hint="it is for `layerwise` without an embedding of tensors",
        )


def training_suite(checkpoint: Checkpoint) -> RunConfig:
    """The configuration of the run that made the weights, as far as it is known.

    Raises:
      ConfigError: its card does not name its suite.
    """
    path = checkpoint.path
    if path.is_dir() and not hub.is_folder(path):
        return rundir.read_config(run_of(path))
    suite = checkpoint.header.card.get("suite")
    if not suite:
        raise ConfigError(
            f"a schedule needs the suite that `{path.name}` was meta-trained "
            "on, and its card names none",
            hint="evaluate the run's folder in place of the exported file",
        )
    return load_suite(suite)


def record(
    checkpoint: Checkpoint,
    tasks: Sequence[Task],
    lengths: Sequence[int],
    devices: Sequence[Any],
    notify: Notify,
) -> Means:
    """Trains the tasks for every run length and averages what was decided.

    Args:
      checkpoint: an optimizer that has a policy.
      tasks: each counts the same, for the kinds of tensors that it has.
      lengths: run lengths, each different.
      devices: jobs run side by side, one a device.
      notify: told what is done.
    """
    jobs = [partial(_record_task, checkpoint, task, lengths) for task in tasks]
    found = run_jobs(jobs, devices, notify)
    kinds = tuple(sorted({kind for by_kind in found for kind in by_kind}))
    rows = [_mean([row[kind] for row in found if kind in row]) for kind in kinds]
    for is_matrix in (False, True):
        alike = [
            row for row, kind in zip(rows, kinds, strict=True) if kind[1] == is_matrix
        ]
        if alike:
            kinds += (("", is_matrix),)
            rows.append(_mean(alike))
    policy = jax.tree.map(lambda *leaves: np.stack(leaves, axis=1), *rows)
    return Means(tuple(lengths), kinds, policy)


def _record_task(
    checkpoint: Checkpoint,
    task: Task,
    lengths: Sequence[int],
    device: Any,
    notify: Notify,
) -> dict[Kind, Policy]:
    """By kind of tensor, mean decisions on one task: leaves [N, POINTS, ...]."""
    notify(f"recording what is decided on {task.name}", 0)
    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), SEEDS)
    run = jax.vmap(recorder(checkpoint, task), in_axes=(0, None, None, None))
    arguments = [
        jax.device_put((keys, places(length), jnp.asarray(length), task.data), device)
        for length in lengths
    ]
    program = compile_lowered(jax.jit(run).lower(*arguments[0]))
    runs = [jax.device_get(program(*args)[1]) for args in arguments]
    policy = jax.tree.map(lambda *leaves: np.stack([x.mean(0) for x in leaves]), *runs)
    kinds = [kind_of(spec) for spec in packing(task.specs).specs]
    members = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in kinds}
    return {
        kind: jax.tree.map(lambda x, rows=rows: x[:, :, rows].mean(axis=2), policy)
        for kind, rows in members.items()
    }


def following(means: Means, options: dict[str, Any]) -> LearnedOptimizer:
    """The optimizer that follows the means; its theta are factors.

    Args:
      means: what it does at factors of 1.
      options: all of those of the factory `layerwise`.
    """

    def decide(theta: MetaParams, pack: Packing, step: Array, num_steps: Array) -> Policy:
        mean = means.at(pack, step, num_steps)
        return mean._replace(
            step_size=theta["learning_rate"] * mean.step_size,
            weight_decay=theta["weight_decay"] * mean.weight_decay,
        )

    return LearnedOptimizer(hyperparameters, layerwise_following(decide, options))


def _mean(policies: Sequence[Policy]) -> Policy:
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *policies)
