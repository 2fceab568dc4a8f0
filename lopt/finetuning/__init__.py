"""Tasks that start from given parameters, some of them frozen, some of them fresh.

What a task starts from is read from a file (given.py) or made by pretraining
(pretraining.py): tensors by name. They become part of its data (start.py), so that tasks
that differ in nothing but pretrained weights share a compiled program.
"""

from pathlib import Path

from lopt.base import Task
from lopt.config import StartConfig
from lopt.finetuning.given import fitting, read_tensors
from lopt.finetuning.pretraining import Notify, PretrainingTask, pretrained
from lopt.finetuning.start import places, started


def finetuned(
    task: Task, start: StartConfig, source: PretrainingTask | None, notify: Notify
) -> Task:
    """The task, started from given parameters.

    Args:
      task: with initial parameters of its own.
      start: what it starts from instead, and what of it is trained.
      source: what `start.pretrain` trains; None where parameters are read from a file.
      notify: told a line about what takes long.

    Raises:
      ConfigError: a pattern that matches nothing, a file that cannot be read, tensors
        that do not fit, pretraining that diverged.
    """
    chosen = places(task, frozen=start.frozen, fresh=start.fresh)
    if source is None or start.pretrain is None:
        tensors, what = read_tensors(Path(start.file or "")), f"`{start.file}`"
    else:
        tensors, what = pretrained(source, start.pretrain, notify), "what it pretrains"
    return started(task, fitting(what, tensors, task, chosen, start.fresh), chosen)
