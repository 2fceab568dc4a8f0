"""Several optimizers on one suite, none tuned: by how much their losses differ.

Imported by against_default.py, leave_one_out.py and meta_curve.py.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


def contest(
    contestants: Mapping[str, tuple[Any, Any]], suite: str, *, seeds: int, seed: int
):
    """The results of all of them on every task of the suite, runs of full length only.

    Args:
      contestants: by name, optimizers and their thetas.
      suite: the name or file of one.
      seeds: of the runs, paired.
      seed: of these.
    """
    from lopt.cli.progress import Bar
    from lopt.config import load_suite
    from lopt.evaluation.comparison import evaluate
    from lopt.suites import build_tasks

    (first, (lopt, theta)), *others = contestants.items()
    with Bar() as bar:
        return evaluate(
            lopt,
            theta,
            build_tasks(load_suite(suite)),
            name=first,
            baselines=[(name, *other) for name, other in others],
            seeds=seeds,
            seed=seed,
            budgets=[1.0],
            progress=bar.update,
        )


def ratios(results) -> dict[str, dict]:
    """Of each but the first the mean test losses over those of the first.

    Returns:
      By name: the median over tasks, its 80 % interval from runs that are paired over
      seeds, and the ratio on every task.
    """
    from lopt.evaluation import statistics

    draws = statistics.resample(results.settings.seeds, 2000, results.settings.seed)
    found = {}
    for i, contender in enumerate(results.tasks[0].contenders[1:], 1):
        tasks, samples = {}, []
        for task in results.tasks:
            ours, theirs = (
                np.asarray(task.contenders[j].budgets[-1].losses) for j in (0, i)
            )
            tasks[task.name] = float(theirs.mean() / ours.mean())
            samples.append(theirs[draws].mean(-1) / ours[draws].mean(-1))
        found[contender.name] = {
            "median": float(np.median(list(tasks.values()))),
            "interval80": statistics.interval(np.median(samples, axis=0), 0.8),
            "tasks": tasks,
        }
    return found
