"""The configuration's dataclasses: names, types, defaults and rules, each said once."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

from lopt.config.rules import BrokenRule, check_types, require
from lopt.config.start import StartConfig
from lopt.errors import ConfigError, unknown_name

Options = dict[str, Any]

DEFAULTS = {"optimizer": "layerwise", "estimator": "nres"}
"""The component in each of these tables where none is named."""


@dataclass(frozen=True, kw_only=True)
class ComponentConfig:
    """A factory by name, and the options it is called with.

    Attributes:
      name: a registered name, an entry point, or `path/to/file.py:factory`.
      options: keyword arguments of the factory, plain TOML values; checked against the
        factory's signature when it is called.
    """

    name: str
    options: Options = field(default_factory=dict)

    def __post_init__(self):
        check_types(self)
        require(self, "name", bool(self.name), "not be empty")


@dataclass(frozen=True, kw_only=True)
class UnrollConfig:
    """How inner runs are cut into truncations, and what their meta-loss is.

    What each means is said where it is done, in `lopt.unroll`.

    Attributes:
      length: K, inner steps in a truncation.
      run_length: how the lengths of the runs are drawn.
      meta_loss: of a run, from its readings.
      meta_split: the split that the meta-loss is read on.
      meta_every: inner steps between two readings of the meta-loss on the meta split.
      meta_transform: of a reading.
    """

    length: int = 50
    run_length: Literal["log-uniform", "constant", "curriculum"] = "log-uniform"
    meta_loss: Literal["mean", "last", "minimum", "rising"] = "mean"
    meta_split: Literal["meta", "train"] = "meta"
    meta_every: int = 5
    meta_transform: Literal["log", "raw", "clipped", "relative"] = "log"

    def __post_init__(self):
        check_types(self)
        require(self, "length", self.length >= 1, "be at least 1")
        require(self, "meta_every", self.meta_every >= 1, "be at least 1")
        rule = f"be a multiple of `unroll.meta_every` = {self.meta_every}"
        require(self, "length", self.length % self.meta_every == 0, rule)


@dataclass(frozen=True, kw_only=True)
class OuterOptimizerConfig:
    """The optimizer that trains theta.

    Attributes:
      name: an optimizer of optax that takes `learning_rate`; one of `optax.contrib` as
        `contrib.NAME`.
      learning_rate: its peak.
      schedule: of the learning rate after the warmup, over the rest of the outer steps.
      schedule_options: further arguments of optax's schedule, such as `alpha`.
      warmup_steps: outer steps of linear warmup from zero.
      clip_norm: largest global norm of the meta-gradient; 0: no clipping.
      average: decay of a moving average of theta, kept beside it; 0: none.
      normalize_tasks: whether the tasks' meta-gradients are brought to one scale before
        they are averaged, so that the largest does not rule.
      options: further arguments of the optimizer, such as `b1` or `weight_decay`.
    """

    name: str = "adam"
    learning_rate: float = 3e-3
    schedule: Literal[
        "cosine", "constant", "linear", "polynomial", "exponential",
        "cosine_onecycle", "linear_onecycle",
    ] = "cosine"  # fmt: skip
    schedule_options: Options = field(default_factory=dict)
    warmup_steps: int = 0
    clip_norm: float = 1.0
    average: float = 0.0
    normalize_tasks: bool = False
    options: Options = field(default_factory=dict)

    def __post_init__(self):
        check_types(self)
        require(self, "name", bool(self.name), "not be empty")
        require(self, "learning_rate", self.learning_rate > 0, "be positive")
        require(self, "warmup_steps", self.warmup_steps >= 0, "not be negative")
        require(self, "clip_norm", self.clip_norm >= 0, "not be negative")
        rule = "be at least 0 and less than 1"
        require(self, "average", 0 <= self.average < 1, rule)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How inner runs are varied in meta-training, and nowhere else.

    Everything is drawn anew for every run. How is said where it is done, in
    `lopt.augmentation`.

    Attributes:
      reparametrize: whether inner parameters are φ = s φ', the optimizer seeing φ'; with
        one s a run, a tensor, or a parameter.
      reparam_range: s is log-uniform between these two.
      loss_scale: what training sees of the loss is multiplied by a factor that is
        log-uniform between these two.
      input_noise: standard deviation of what is added to the inputs of minibatches.
      permute_labels: whether the classes are permuted.
      min_batch_size: of the different examples of a minibatch, whose size stays; 0: all
        are different.
    """

    reparametrize: Literal["none", "global", "tensor", "parameter"] = "none"
    reparam_range: tuple[float, ...] = (0.1, 10.0)
    loss_scale: tuple[float, ...] = (1.0, 1.0)
    input_noise: float = 0.0
    permute_labels: bool = False
    min_batch_size: int = 0

    def __post_init__(self):
        check_types(self)
        for key in ("reparam_range", "loss_scale"):
            bounds = getattr(self, key)
            holds = len(bounds) == 2 and 0 < bounds[0] <= bounds[1]
            if not holds:
                rule = "be two positive numbers, the lower first"
                raise BrokenRule(key, rule, list(bounds))
        require(self, "input_noise", self.input_noise >= 0, "not be negative")
        require(self, "min_batch_size", self.min_batch_size >= 0, "not be negative")


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """One task of a suite: a family's or a Python file's.

    Attributes:
      family: a task family's name; absent where `file` is given.
      file: a Python file with a factory `task(**options) -> lopt.Task`.
      name: for people; made from family and options where absent.
      weight: of this task's meta-gradient, relative to the other tasks'.
      enters: the share of the outer steps before this task takes part in meta-training.
      min_steps: shortest run in meta-training.
      max_steps: longest run in meta-training.
      num_steps: T, length of a run in evaluation.
      start: given parameters to start from; None: random ones.
      augment: keys of `AugmentConfig` in which this task differs from its suite.
      options: keyword arguments of the factory, plain TOML values.
    """

    family: str | None = None
    file: str | None = None
    name: str | None = None
    weight: float = 1.0
    enters: float = 0.0
    min_steps: int = 100
    max_steps: int = 1000
    num_steps: int = 500
    start: StartConfig | None = None
    augment: Options | None = None
    options: Options = field(default_factory=dict)

    def __post_init__(self):
        check_types(self)
        given = [key for key in ("family", "file") if getattr(self, key)]
        if len(given) != 1:
            what = "both" if given else "neither"
            raise ConfigError(f"a task must have a `family` or a `file`, got {what}")
        require(self, "weight", self.weight > 0, "be positive")
        rule = "be at least 0 and less than 1"
        require(self, "enters", 0 <= self.enters < 1, rule)
        require(self, "min_steps", self.min_steps >= 1, "be at least 1")
        require(self, "num_steps", self.num_steps >= 1, "be at least 1")
        rule = f"be at least `min_steps` = {self.min_steps}"
        require(self, "max_steps", self.max_steps >= self.min_steps, rule)
        try:
            self.augmentation(AugmentConfig())
        except BrokenRule as error:
            raise error.within("augment") from None

    def augmentation(self, suite: AugmentConfig) -> AugmentConfig:
        """What the suite's table says, but for the keys that the task has itself."""
        own, known = self.augment or {}, vars(suite)
        for key in own:
            if key not in known:
                raise unknown_name("key of `augment`", key, known)
        return dataclasses.replace(suite, **own)


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """On which tasks the best theta of a run is selected; lopt.run.selection does it.

    Attributes:
      suite: its name or path, neither the training nor a held-out one; "": no selection.
      seeds: runs of each of its tasks in one selection.
      share: inner steps of all selections, at most, relative to those of training.
      tasks: the suite's; lopt fills them in.
    """

    suite: str = ""
    seeds: int = 8
    share: float = 0.05
    tasks: tuple[TaskConfig, ...] = ()

    def __post_init__(self):
        check_types(self)
        require(self, "seeds", self.seeds >= 1, "be at least 1")
        require(self, "share", 0 < self.share <= 1, "be positive and at most 1")
        if self.suite and not self.tasks:
            raise BrokenRule("suite", "name a suite that has tasks", self.suite)
        is_held_out = PurePath(self.suite).stem.endswith("heldout")
        rule = "not be a suite that is held out"
        hint = "select on a suite of its own: nothing may be chosen by held-out results"
        if is_held_out:
            raise BrokenRule("suite", rule, self.suite, hint=hint)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a meta-training run is told, resolved.

    Attributes:
      suite: the suite's name or path, as it was given.
      description: one line about the suite.
      seed: of every random draw of the run.
      outer_steps: meta-training steps.
      checkpoint_every: outer steps between two checkpoints.
      keep_checkpoints: how many of the newest checkpoints stay on disk.
      tasks_per_step: how many tasks an outer step takes, drawn by weight; 0: all. Tasks
        that share a compiled program count as one, and are drawn together.
      stream_every: outer steps that each chunk of a streamed task is trained on.
      optimizer: the learned optimizer.
      estimator: the meta-gradient's estimator.
      unroll: truncation and meta-loss.
      outer_optimizer: what trains theta.
      selection: what the best theta is selected on.
      augment: how the tasks are varied that do not say otherwise.
      tasks: what it is trained on; at least one.
    """

    suite: str = ""
    description: str = ""
    seed: int = 0
    outer_steps: int = 300
    checkpoint_every: int = 25
    keep_checkpoints: int = 2
    tasks_per_step: int = 0
    stream_every: int = 10
    optimizer: ComponentConfig = field(
        default_factory=lambda: ComponentConfig(name=DEFAULTS["optimizer"])
    )
    estimator: ComponentConfig = field(
        default_factory=lambda: ComponentConfig(name=DEFAULTS["estimator"])
    )
    unroll: UnrollConfig = UnrollConfig()
    outer_optimizer: OuterOptimizerConfig = field(default_factory=OuterOptimizerConfig)
    selection: SelectionConfig = SelectionConfig()
    augment: AugmentConfig = AugmentConfig()
    tasks: tuple[TaskConfig, ...]

    def __post_init__(self):
        check_types(self)
        require(self, "seed", self.seed >= 0, "not be negative")
        for key in (
            "outer_steps",
            "checkpoint_every",
            "keep_checkpoints",
            "stream_every",
        ):
            require(self, key, getattr(self, key) >= 1, "be at least 1")
        _check_tasks(self)
        most = len(self.tasks)
        rule = f"be from 0, for all, to the number of tasks, {most}"
        require(self, "tasks_per_step", 0 <= self.tasks_per_step <= most, rule)
        _check_selection(self)
        warmup_steps = self.outer_optimizer.warmup_steps
        if warmup_steps >= self.outer_steps:
            rule = f"be less than `outer_steps` = {self.outer_steps}"
            raise BrokenRule("outer_optimizer.warmup_steps", rule, warmup_steps)


def _check_tasks(config: RunConfig) -> None:
    if not config.tasks:
        raise ConfigError(
            "a suite must have at least one task, got none",
            hint="add a table `[[tasks]]` with a `family` to the suite",
        )
    if all(task.enters for task in config.tasks):
        rule = "be 0 for one task at least, with which training starts"
        raise BrokenRule("tasks.0.enters", rule, config.tasks[0].enters)
    names = set()
    for i, task in enumerate(config.tasks):
        if task.min_steps < config.unroll.length:
            rule = f"be at least `unroll.length` = {config.unroll.length}"
            hint = "no truncation may be longer than a run: lower `unroll.length`"
            raise BrokenRule(f"tasks.{i}.min_steps", rule, task.min_steps, hint=hint)
        if task.name in names:
            raise BrokenRule(f"tasks.{i}.name", "be given to one task only", task.name)
        names |= {task.name} - {None}


def _check_selection(config: RunConfig) -> None:
    selection = config.selection
    if selection.suite and selection.suite == config.suite:
        rule = "be another suite than the one that is trained on"
        raise BrokenRule("selection.suite", rule, selection.suite)
    names = {task.name for task in config.tasks} - {None}
    for i, task in enumerate(selection.tasks):
        if task.name in names:
            rule = "not be the name of a training task"
            raise BrokenRule(f"selection.tasks.{i}.name", rule, task.name)
