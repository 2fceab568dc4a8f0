"""A policy frozen into a schedule: an exported file of plain arrays, without a network.

It holds what `layerwise` decides on average on the tasks that it was meta-trained on, as
the control `schedule` of `lopt evaluate` does (lopt.evaluation.schedule), at factors of
1. `lopt.load` runs it like any other file.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax

from lopt import options
from lopt.checkpoint import Checkpoint, save_file
from lopt.config import RunConfig
from lopt.evaluation.schedule import record, require_policy, training_suite
from lopt.evaluation.workers import Notify
from lopt.files import fileformat
from lopt.files.fileformat import Header
from lopt.optimizers import FROZEN
from lopt.suites import build_tasks


def write(
    checkpoint: Checkpoint,
    path: Path,
    *,
    num_steps: int | None = None,
    notify: Notify = lambda text, units: None,
    overwrite: bool = False,
    trust: bool = False,
) -> None:
    """Writes the exported file; the errors of `frozen` and of `save_file`."""
    fileformat.check_free(path, overwrite=overwrite)
    found = frozen(checkpoint, num_steps=num_steps, notify=notify, trust=trust)
    save_file(found, path, overwrite=overwrite)


def frozen(
    checkpoint: Checkpoint,
    *,
    num_steps: int | None = None,
    notify: Notify = lambda text, units: None,
    trust: bool = False,
) -> Checkpoint:
    """The schedule of a policy.

    Args:
      checkpoint: an optimizer that has a policy.
      num_steps: the run length that it is recorded for; None: those of meta-training.
      notify: told what is done.
      trust: whether Python files that its training suite names may be run.

    Raises:
      ConfigError: the optimizer has no policy, or its training suite is not to be found.
    """
    require_policy(checkpoint)
    config = training_suite(checkpoint)
    lengths = (num_steps,) if num_steps else _lengths(config)
    tasks = [entry.task for entry in build_tasks(config, trust=trust)]
    means = record(checkpoint, tasks, lengths, jax.devices()[:1], notify)
    given = options.resolved(
        FROZEN["schedule"],
        {
            "lengths": list(means.lengths),
            "kinds": [list(kind) for kind in means.kinds],
            "layerwise": checkpoint.header.options,
        },
    )
    header = Header(
        optimizer="schedule",
        options=given,
        mup_base=checkpoint.header.mup_base,
        card={**checkpoint.header.card, "evaluation": None, "frozen": True},
    )
    lopt = FROZEN["schedule"](**given)
    theta = means.policy._asdict()
    return replace(checkpoint, lopt=lopt, theta=theta, header=header)


def _lengths(config: RunConfig) -> Sequence[int]:
    """Run lengths of meta-training: the longest, and its halves down to the shortest."""
    length = max(task.max_steps for task in config.tasks)
    shortest = min(task.min_steps for task in config.tasks)
    found = [length]
    while found[-1] // 2 >= shortest:
        found.append(found[-1] // 2)
    return tuple(sorted(found))
