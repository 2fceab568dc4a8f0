"""Pretraining: parameters that are made by a hand-designed optimizer, once.

They are kept in the user's cache folder as safetensors files, each named by a hash of all
that it depends on, and with a hash of its own content: one that does not agree is damaged
and made anew.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from lopt import prng
from lopt.base import Task
from lopt.compiling import compile_lowered
from lopt.config import PretrainConfig, to_dict
from lopt.data import data_hash
from lopt.errors import CheckpointError, ConfigError, unknown_name
from lopt.files.cache import cache_folder
from lopt.files.fileformat import write_atomically
from lopt.files.rundir import make_folder
from lopt.finetuning.given import Tensors
from lopt.finetuning.start import MODEL_STATE, names
from lopt.optimizers.hand_designed import HAND_DESIGNED
from lopt.unroll import inner_step

VERSION = 1
"""To be raised when the same arguments come to make other parameters."""

HASH = "sha256"
"""The key of a file's metadata that has the hash of its tensors."""

Notify = Callable[[str], None]
"""Told a line about what takes long, or went wrong and does not matter."""


@dataclass(frozen=True, kw_only=True)
class PretrainingTask:
    """A task, and what it was made from.

    Attributes:
      task: what is trained.
      family: the name of its family.
      file: the hash of the Python file that defines it; None: lopt's own.
      options: all of them, plain.
    """

    task: Task
    family: str
    file: str | None
    options: dict[str, Any]


def pretrained(
    source: PretrainingTask, config: PretrainConfig, notify: Notify
) -> Tensors:
    """The parameters and the model state that pretraining ends with, by name.

    Args:
      source: what is trained.
      config: how.
      notify: told that it takes long, if the result is not found in the cache.

    Raises:
      ConfigError: an unknown optimizer, or pretraining diverged.
    """
    if config.optimizer not in HAND_DESIGNED:
        raise unknown_name("optimizer of `pretrain`", config.optimizer, HAND_DESIGNED)
    file = cache_file(source, config)
    kept = _read(file, notify) if file.is_file() else None
    if kept is not None:
        return kept
    notify(f"pretraining {source.task.name} for {config.steps} steps")
    tensors = _train(source.task, config)
    try:
        make_folder(file.parent)
        metadata = {HASH: data_hash(tensors)}
        write_atomically(file, safetensors.numpy.save(tensors, metadata))
    except CheckpointError as error:  # a place that refuses is no reason not to train
        notify(f"the pretrained parameters are not kept: {error.message}")
    return tensors


def cache_file(source: PretrainingTask, config: PretrainConfig) -> Path:
    """Where the result of a pretraining is kept."""
    told = {
        "version": VERSION,
        "source": [source.family, source.file, source.options],
        "pretrain": to_dict(config),
        "data": data_hash(source.task.data),
    }
    # Defaults in a user's signature may be anything: the hash of the file covers them.
    text = json.dumps(told, sort_keys=True, default=lambda x: type(x).__name__)
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    return cache_folder("pretrained") / f"{key}.safetensors"


def _read(file: Path, notify: Notify) -> Tensors | None:
    """The tensors of a file of the cache; None if it is damaged."""
    try:
        with safetensors.safe_open(file, framework="numpy") as content:
            expected = (content.metadata() or {}).get(HASH)
        tensors = safetensors.numpy.load_file(file)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError):
        tensors, expected = {}, None
    if expected == data_hash(tensors):
        return tensors
    notify(f"`{file}` is damaged: its content is made anew")
    return None


def _train(task: Task, config: PretrainConfig) -> Tensors:
    lopt = HAND_DESIGNED[config.optimizer]

    def train(theta, key, num_steps, data):
        optimizer = lopt.opt_fn(theta, specs=task.specs, num_steps=num_steps)
        init_key, run_key = prng.split(key, 2)
        params, model_state = task.init(init_key, data)

        def step(t, carry):
            keys = prng.split(prng.fold_in(run_key, t), 2)
            return inner_step(task, optimizer, *carry, keys=keys, data=data)[1:]

        carry = params, model_state, optimizer.init(params)
        return jax.lax.fori_loop(0, num_steps, step, carry)[:2]

    values = (config.learning_rate, config.weight_decay, config.schedule == "constant")
    keys = ("learning_rate", "weight_decay", "constant")
    theta = {k: jnp.float32(v) for k, v in zip(keys, values, strict=True)}
    arguments = theta, jax.random.key(config.seed), jnp.int32(config.steps), task.data
    program = compile_lowered(jax.jit(train).lower(*arguments))
    params, model_state = jax.device_get(program(*arguments))
    state = {MODEL_STATE + name: x for name, x in names(model_state).items()}
    if not all(np.isfinite(np.float32(x)).all() for x in jax.tree.leaves(params)):
        rate = config.learning_rate
        raise ConfigError(
            f"pretraining {task.name} diverged at a learning rate of {rate:g}",
            hint="lower `start.pretrain.learning_rate`",
        )
    return {name: np.asarray(x) for name, x in (names(params) | state).items()}
