"""From a configuration to a trainer; every option is checked before anything compiles."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import jax

from lopt import options
from lopt.augmentation import augment
from lopt.base import GradientEstimator, LearnedOptimizer
from lopt.checkpoint import find_optimizer
from lopt.config import BrokenRule, RunConfig, Trust
from lopt.estimators import ESTIMATORS
from lopt.factories import find
from lopt.groups import TaskGroup, group_tasks
from lopt.mixtures import Mixture
from lopt.references import referenced
from lopt.run.outer_optimizer import outer_optimizer
from lopt.suites import SuiteTask, build_tasks
from lopt.trainer import Trainer
from lopt.unroll import unroll


def build(
    config: RunConfig,
    *,
    trust: Trust = False,
    notify: Callable[[str], None] | None = None,
) -> Trainer:
    """The trainer that a configuration describes.

    Args:
      config: resolved.
      trust: whether Python files that it names may be run.
      notify: told a line about what takes long.

    Raises:
      ConfigError: an unknown name or option, or a value that a factory refuses.
    """
    lopt = build_optimizer(config, trust=trust)
    make_estimator = partial(_estimator, config=config, lopt=lopt, trust=trust)
    tasks = _augmented(config, build_tasks(config, trust=trust, notify=notify))
    if config.unroll.meta_transform == "relative":
        tasks = referenced(tasks, config.unroll)
    groups = group_tasks(tasks, make_estimator)
    return Trainer(
        lopt=lopt,
        groups=groups,
        outer_optimizer=outer_optimizer(config.outer_optimizer, config.outer_steps),
        outer_steps=config.outer_steps,
        average=config.outer_optimizer.average,
        normalize_tasks=config.outer_optimizer.normalize_tasks,
        mixture=_mixture(config, groups),
    )


def _mixture(config: RunConfig, groups: tuple[TaskGroup, ...]) -> Mixture | None:
    """What takes part in which step; None: everything in every one."""
    enters = tuple(group.enters for group in groups)
    draws = 0 < config.tasks_per_step < len(groups)
    if not draws and not any(enters):
        return None
    return Mixture(
        weights=tuple(sum(group.weights) for group in groups),
        enters=enters,
        number=config.tasks_per_step,
        outer_steps=config.outer_steps,
        seed=config.seed,
    )


def build_optimizer(config: RunConfig, *, trust: Trust = False) -> LearnedOptimizer:
    """The learned optimizer that a configuration names; the errors of `build`."""
    factory = find_optimizer(config.optimizer.name, trust=trust)
    return options.build(factory, config.optimizer.options, where="optimizer")


def _augmented(config: RunConfig, suite: Sequence[SuiteTask]) -> list[SuiteTask]:
    """The suite's tasks, augmented, as nothing else sees them: selection and evaluation
    are about the tasks themselves.
    """
    tasks = []
    for i, built in enumerate(suite):
        try:
            task = augment(built.task, config.tasks[i].augmentation(config.augment))
        except BrokenRule as error:
            raise error.within(f"tasks.{i}.augment") from None
        tasks.append(replace(built, task=task))
    return tasks


def _estimator(
    entry: SuiteTask, *, config: RunConfig, lopt: LearnedOptimizer, trust: Trust
) -> GradientEstimator:
    """The meta-gradient's estimator on one task."""
    inner = unroll(
        entry.task,
        lopt,
        min_steps=entry.min_steps,
        max_steps=entry.max_steps,
        **vars(config.unroll),
    )
    name = config.estimator.name
    factory = find("estimator", name, ESTIMATORS, group="lopt.estimators", trust=trust)
    estimator = options.build(factory, config.estimator.options, inner, where="estimator")
    # Some options are about theta: its shapes are enough to check them.
    key = jax.random.key(0)
    try:
        theta = jax.eval_shape(lopt.init, key)
        jax.eval_shape(estimator.init, theta, key, entry.task.data)
    except BrokenRule as error:
        raise error.within("estimator") from error
    return estimator
