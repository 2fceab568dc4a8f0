"""From a configuration to a trainer; every option is checked before anything compiles."""

import inspect
from functools import partial

import jax
import optax

from lopt import options
from lopt.base import GradientEstimator, LearnedOptimizer
from lopt.checkpoint import find_optimizer
from lopt.config import BrokenRule, OuterOptimizerConfig, RunConfig
from lopt.errors import ConfigError, unknown_name
from lopt.estimators import ESTIMATORS
from lopt.factories import find
from lopt.suites import SuiteTask, build_tasks
from lopt.trainer import Trainer, group_tasks
from lopt.unroll import unroll


def build(config: RunConfig, *, trust: bool = False) -> Trainer:
    """The trainer that a configuration describes.

    Args:
      config: resolved.
      trust: whether Python files that it names may be run.

    Raises:
      ConfigError: an unknown name or option, or a value that a factory refuses.
    """
    lopt = build_optimizer(config, trust=trust)
    make_estimator = partial(_estimator, config=config, lopt=lopt, trust=trust)
    return Trainer(
        lopt=lopt,
        groups=group_tasks(build_tasks(config, trust=trust), make_estimator),
        outer_optimizer=outer_optimizer(config.outer_optimizer, config.outer_steps),
        outer_steps=config.outer_steps,
    )


def build_optimizer(config: RunConfig, *, trust: bool = False) -> LearnedOptimizer:
    """The learned optimizer that a configuration names; the errors of `build`."""
    factory = find_optimizer(config.optimizer.name, trust=trust)
    return options.build(factory, config.optimizer.options, where="optimizer")


def _estimator(
    entry: SuiteTask, *, config: RunConfig, lopt: LearnedOptimizer, trust: bool
) -> GradientEstimator:
    """The meta-gradient's estimator on one task."""
    try:
        inner = unroll(
            entry.task,
            lopt,
            min_steps=entry.min_steps,
            max_steps=entry.max_steps,
            **vars(config.unroll),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
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


def outer_optimizer(
    config: OuterOptimizerConfig, outer_steps: int
) -> optax.GradientTransformation:
    """What trains theta: clipping, then an optax optimizer under a schedule.

    Raises:
      ConfigError: optax has no such optimizer that takes `learning_rate`.
    """
    factory = getattr(optax, config.name, None)
    if factory is None or not _takes_learning_rate(factory):
        known = [n for n in dir(optax) if _takes_learning_rate(getattr(optax, n))]
        raise unknown_name("optimizer of optax", config.name, known)
    optimizer = factory(learning_rate=_schedule(config, outer_steps))
    if not config.clip_norm:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def _takes_learning_rate(factory) -> bool:
    if not inspect.isfunction(factory):
        return False
    parameters = inspect.signature(factory).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty]
    return required == ["learning_rate"]


def _schedule(config: OuterOptimizerConfig, outer_steps: int) -> optax.Schedule:
    """Linear warmup from zero, then cosine decay to zero at the end, or constant."""
    peak, warmup = config.learning_rate, config.warmup_steps
    rest = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, outer_steps - warmup),
    }[config.schedule]
    if not warmup:
        return rest
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup), rest], [warmup]
    )
