"""What Adam makes of each task: by it, meta-losses of different tasks become alike.

A reference run of a task goes on for its longest run length, in the truncations of
meta-training. With `initial` the mean loss before the first step and `floor` that over
the last truncation, of the learning rate that gets lowest, a loss of the task is read as

    (loss − floor)/(initial − floor)

1 where a run starts, 0 where the reference ends, and negative beyond: a tenth is as much
on one task as on another. The two numbers travel with the task's data, so tasks of one
shape still share a compiled program.

References:
  Metz et al., Using a thousand optimization tasks to learn hyperparameter search
  strategies, 2020, arXiv 2002.11887 (TaskSet): losses of a thousand tasks, normalized
  before they are averaged.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lopt import prng
from lopt.base import Array, Data, PRNGKey
from lopt.compiling import compile_lowered, mapped
from lopt.config import UnrollConfig
from lopt.errors import ConfigError
from lopt.groups import TaskGroup, by_program, stacked_data
from lopt.optimizers.learnable import learnable_adam
from lopt.streams import with_data
from lopt.suites import SuiteTask
from lopt.unroll import Referenced, unroll

RATES = (1e-3, 3e-3, 1e-2, 3e-2)
"""Adam's learning rates; constant ones."""
SEEDS, SEED = 4, 0x4EFE4
"""Runs at each rate, whose losses are averaged, and what all of them are drawn from."""


def referenced(
    tasks: Sequence[SuiteTask], config: UnrollConfig, *, seed: int = SEED
) -> list[SuiteTask]:
    """The tasks with their references in their data.

    Raises:
      ConfigError: Adam does not lower the loss of a task.
    """
    found = {}
    for group in by_program(tasks):
        run = jax.jit(
            mapped(partial(_reference, group[0], config), (None, 0), len(group))
        )
        arguments = jax.random.key(seed), stacked_data(group)
        initials, floors = compile_lowered(run.lower(*arguments))(*arguments)
        for entry, *numbers in zip(group, initials, floors, strict=True):
            initial, floor = (np.float32(number) for number in numbers)
            found[entry.task.name] = partial(Referenced, initial=initial, floor=floor)
            if not floor < initial:
                raise ConfigError(
                    f"task `{entry.task.name}`: Adam does not lower its loss in "
                    f"{entry.max_steps} steps: from {initial:.4g} to {floor:.4g}",
                    hint="read it by another `unroll.meta_transform` than `relative`",
                )
    return [
        replace(entry, task=with_data(entry.task, found[entry.task.name]))
        for entry in tasks
    ]


def recorded(groups: Sequence[TaskGroup]) -> dict[str, Any]:
    """What run.json says of references; nothing where there are none."""
    numbers = {
        name: {"initial": float(initial), "floor": float(floor)}
        for group in groups
        if isinstance(group.data, Referenced)
        for name, initial, floor in zip(
            group.names, group.data.initial, group.data.floor, strict=True
        )
    }
    return {"references": numbers} if numbers else {}


def _reference(
    entry: SuiteTask, config: UnrollConfig, key: PRNGKey, data: Data
) -> tuple[Array, Array]:
    """Initial loss and floor of a task, both []."""
    task, adam = entry.task, learnable_adam()
    inner = unroll(
        task,
        adam,
        length=config.length,
        min_steps=entry.max_steps,
        max_steps=entry.max_steps,
        meta_split=config.meta_split,
        meta_every=config.meta_every,
        meta_transform="clipped",
    )
    num_steps = jnp.asarray(inner.max_steps, jnp.int32)

    def run(rate: Array, key: PRNGKey) -> tuple[Array, Array]:
        init_key, batch_key, run_key = prng.split(key, 3)
        theta = adam.init(key) | {"log_lr": jnp.log(rate)}
        state = inner.init(theta, init_key, data, num_steps)
        batch = task.batch(batch_key, data, "train")
        if config.meta_split != "train":
            batch = task.eval_batch(data, config.meta_split)
        initial, _ = task.loss(state.params, state.model_state, batch, batch_key)

        def truncation(state, key):
            reading, state = inner.advance(theta, state, key, data)
            return state, reading.loss

        keys = prng.split(run_key, inner.max_steps // inner.length)
        _, losses = jax.lax.scan(truncation, state, keys)
        return initial, losses[-1]

    keys = prng.split(key, SEEDS)
    each_seed = jax.vmap(run, in_axes=(None, 0))
    initials, finals = jax.vmap(each_seed, in_axes=(0, None))(jnp.asarray(RATES), keys)
    return jnp.mean(initials), jnp.min(jnp.mean(finals, axis=1))
