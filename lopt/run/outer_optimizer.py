"""What trains theta: clipping, and an optax optimizer under a schedule with warmup."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from lopt import options
from lopt.config import OuterOptimizerConfig
from lopt.errors import ConfigError, unknown_name

SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": optax.constant_schedule,
    "cosine": optax.cosine_decay_schedule,
    "linear": optax.linear_schedule,
    "polynomial": optax.polynomial_schedule,
    "exponential": optax.exponential_decay,
    "cosine_onecycle": optax.cosine_onecycle_schedule,
    "linear_onecycle": optax.linear_onecycle_schedule,
}
"""By the names that `OuterOptimizerConfig.schedule` may have."""

_KEYS = ("name", "learning_rate", "schedule", "schedule_options", "warmup_steps",
         "clip_norm", "average", "normalize_tasks")  # fmt: skip


def outer_optimizer(
    config: OuterOptimizerConfig, outer_steps: int
) -> optax.GradientTransformation:
    """The optimizer that a configuration describes.

    Raises:
      ConfigError: optax has no such optimizer, it cannot train theta, or it refuses an
        option.
    """
    factory = _find(config.name)
    learning_rate = _schedule(config, outer_steps)
    # The options' place in messages: they stand beside our own keys.
    optimizer = options.build(
        factory, config.options, learning_rate, where="outer_optimizer", other_keys=_KEYS
    )
    _try(optimizer, config.name)
    if not config.clip_norm:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def _find(name: str) -> Callable[..., optax.GradientTransformation]:
    known = {n: getattr(optax, n) for n in dir(optax)}
    known |= {f"contrib.{n}": getattr(optax.contrib, n) for n in dir(optax.contrib)}
    known = {n: f for n, f in known.items() if _is_optimizer(n, f)}
    if name not in known:
        raise unknown_name("optimizer of optax", name, known)
    return known[name]


def _is_optimizer(name: str, factory: Any) -> bool:
    """Whether a function of optax has a learning rate as its first argument."""
    if not inspect.isfunction(factory) or name.startswith(("_", "scale_by", "contrib._")):
        return False
    return next(iter(inspect.signature(factory).parameters), None) == "learning_rate"


def _try(optimizer: optax.GradientTransformation, name: str) -> None:
    """Updates a small theta, by shapes alone."""
    theta = {"w": jnp.zeros((2, 2)), "b": {"c": jnp.zeros(2)}}

    def step(theta):
        return optimizer.update(theta, optimizer.init(theta), theta)

    try:
        jax.eval_shape(step, theta)
    except Exception as error:  # optax checks options where it uses them
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"`outer_optimizer`: `{name}` cannot train theta with these options: "
            f"{reason}",
            hint="optax's documentation says what its options must be",
        ) from error


def _schedule(config: OuterOptimizerConfig, outer_steps: int) -> optax.Schedule:
    """Linear warmup from zero, then the schedule over the steps that are left."""
    peak, warmup = config.learning_rate, config.warmup_steps
    rest = outer_steps - warmup
    factory = SCHEDULES[config.schedule]
    known = {"value": peak, "init_value": peak, "peak_value": peak}
    known |= {"decay_steps": rest, "transition_steps": rest}
    if config.schedule in ("linear", "polynomial"):
        known["end_value"] = 0.0
    wanted = inspect.signature(factory).parameters
    filled = {name: value for name, value in known.items() if name in wanted}
    schedule = options.build(
        factory,
        filled | config.schedule_options,
        where="outer_optimizer.schedule_options",
    )
    if not warmup:
        return schedule
    ramp = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([ramp, schedule], [warmup])
