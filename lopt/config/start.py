"""What a task starts from, where it does not start from random parameters."""

from dataclasses import dataclass, field
from typing import Any, Literal

from lopt.config.rules import check_types, require
from lopt.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How the parameters that a task starts from are made; lopt.finetuning does it.

    Attributes:
      steps: of training.
      optimizer: a name in `lopt.optimizers.hand_designed.HAND_DESIGNED`.
      learning_rate: its peak, after a warmup over the first 5 % of the steps.
      weight_decay: of matrices, decoupled.
      schedule: of the learning rate after the warmup, down to zero or constant.
      seed: of initialization and minibatches.
      options: of the task's factory, where they differ from the task's own.
    """

    steps: int = 1000
    optimizer: str = "adamw"
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        check_types(self)
        require(self, "steps", self.steps >= 1, "be at least 1")
        require(self, "optimizer", bool(self.optimizer), "not be empty")
        require(self, "learning_rate", self.learning_rate > 0, "be positive")
        require(self, "weight_decay", self.weight_decay >= 0, "not be negative")
        require(self, "seed", self.seed >= 0, "not be negative")


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """What parameters a task starts from, and which of them it trains.

    A pattern is a glob over the names of tensors, such as `layer_0/w` or `*/bias`; one
    that matches the beginning of a name up to a `/` covers all beneath it.

    Attributes:
      file: a safetensors file, or the folder of an orbax checkpoint.
      pretrain: how they are made, where there is no `file`.
      frozen: patterns of tensors that are not trained.
      fresh: patterns of tensors that are initialized anew, as without a start.
    """

    file: str | None = None
    pretrain: PretrainConfig | None = None
    frozen: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()

    def __post_init__(self):
        check_types(self)
        given = [key for key in ("file", "pretrain") if getattr(self, key)]
        if len(given) != 1:
            what = "both" if given else "neither"
            raise ConfigError(f"a start must have a `file` or a `pretrain`, got {what}")
