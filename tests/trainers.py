"""Trainers of small tasks."""

import optax

from lopt.estimators import ESTIMATORS
from lopt.families.mlp import mlp
from lopt.groups import group_tasks
from lopt.suites import SuiteTask
from lopt.trainer import Trainer
from lopt.unroll import unroll


def make_trainer(lopt, tasks, *, estimator="nres", num_pairs=4, rate=1e-2, **options):
    options = {"length": 4, "meta_every": 2} | options

    def make_estimator(entry):
        inner = unroll(
            entry.task,
            lopt,
            min_steps=entry.min_steps,
            max_steps=entry.max_steps,
            **options,
        )
        return ESTIMATORS[estimator](inner, num_pairs=num_pairs, sigma=0.05)

    return Trainer(lopt, group_tasks(tasks, make_estimator), optax.adam(rate), 100)


def entry(task, weight=1.0, min_steps=8, max_steps=16):
    return SuiteTask(
        task=task, weight=weight, min_steps=min_steps, max_steps=max_steps, num_steps=16
    )


def small_mlp(**options):
    return mlp(**({"width": 4, "depth": 1, "batch_size": 4} | options))
