"""The outer loop: estimate on every group of tasks, average, update theta. No I/O.

Tasks that share functions, specs, data shapes and run lengths form a `TaskGroup`: their
data are stacked and one compiled program serves all of them, vmapped over tasks, pairs
and signs. Pairs are sharded over the devices there are, so that two CPU cores or eight
accelerators run them side by side.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lopt.base import (
    Array,
    Data,
    EstimatorState,
    GradientEstimator,
    LearnedOptimizer,
    MetaGradient,
    MetaParams,
    PRNGKey,
    Task,
)
from lopt.compiling import compile_all, mapped
from lopt.outer import TaskScales, averaged, normalized, task_scales
from lopt.suites import SuiteTask, by_program, stacked_data


class Selected(NamedTuple):
    """The best theta so far, by the score of a selection; kept for `run/selection.py`."""

    theta: MetaParams
    score: Array  # shape=[], the lower the better; inf before the first selection
    step: Array  # shape=[], int32: outer steps that led to it, 0: none yet
    is_average: Array  # shape=[], bool: whether it is an average of theta
    credit: Array  # shape=[], inner steps of training not yet charged for a selection


class TrainState(NamedTuple):
    """Everything that resuming needs, bit for bit; what a run does not use is ()."""

    theta: MetaParams
    outer_opt_state: optax.OptState
    estimator_states: tuple[EstimatorState, ...]  # one a group, leaves [tasks, N, ...]
    step: Array  # shape=[], int32: outer steps taken
    key: PRNGKey
    average: MetaParams | tuple[()] = ()
    task_scales: TaskScales | tuple[()] = ()
    selected: Selected | tuple[()] = ()


class Metrics(NamedTuple):
    """What one outer step reports; device arrays."""

    loss: Array  # shape=[], the weighted mean meta-loss
    task_losses: Array  # shape=[tasks], in the order of `Trainer.task_names`
    grad_norm: Array  # shape=[]
    num_diverged: Array  # shape=[], int32: inner runs
    num_steps: Array  # shape=[], int32: inner steps taken
    skipped: Array  # shape=[], bool: a non-finite update, not applied to theta


@dataclass(frozen=True)
class TaskGroup:
    """Tasks that share one compiled program.

    Attributes:
      task: stands for all of them; its own data are not used.
      names: of the tasks.
      data: leaves [tasks, ...].
      weights: of the tasks in the meta-loss; over all groups they sum to one.
      estimator: for one task.
    """

    task: Task
    names: tuple[str, ...]
    data: Data
    weights: tuple[float, ...]
    estimator: GradientEstimator


def group_tasks(
    tasks: Sequence[SuiteTask],
    make_estimator: Callable[[SuiteTask], GradientEstimator],
) -> tuple[TaskGroup, ...]:
    """Tasks grouped by what their compiled program depends on."""
    total = sum(entry.weight for entry in tasks)
    return tuple(
        TaskGroup(
            task=group[0].task,
            names=tuple(entry.task.name for entry in group),
            data=stacked_data(group),
            weights=tuple(entry.weight / total for entry in group),
            estimator=make_estimator(group[0]),
        )
        for group in by_program(tasks)
    )


@dataclass(frozen=True)
class Trainer:
    """Meta-trains an optimizer on groups of tasks.

    Attributes:
      lopt: what is trained.
      groups: on which tasks, with their estimators.
      outer_optimizer: of theta.
      outer_steps: how many there will be; schedules of the estimators span them.
      average: decay of the moving average of theta; 0: none is kept.
      normalize_tasks: whether the tasks' meta-gradients are brought to one scale.
    """

    lopt: LearnedOptimizer
    groups: tuple[TaskGroup, ...]
    outer_optimizer: optax.GradientTransformation
    outer_steps: int
    average: float = 0.0
    normalize_tasks: bool = False

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of all tasks, in the order of `Metrics.task_losses`."""
        return tuple(name for group in self.groups for name in group.names)

    @property
    def datas(self) -> tuple[Data, ...]:
        """Each group's data: the last argument of `step`."""
        return tuple(group.data for group in self.groups)

    def init(self, key: PRNGKey, theta: MetaParams | None = None) -> TrainState:
        """The state before the first outer step, from given meta-parameters or new."""
        theta_key, estimator_key, key = jax.random.split(key, 3)
        start = self.lopt.init(theta_key) if theta is None else theta
        start = jax.tree.map(jnp.asarray, start)
        keys = jax.random.split(estimator_key, max(len(self.groups), 1))
        states = tuple(
            jax.jit(_over_tasks(group.estimator.init, group))(start, k, group.data)
            for group, k in zip(self.groups, keys, strict=False)
        )
        outer_opt_state = self.outer_optimizer.init(start)
        step = jnp.zeros((), jnp.int32)
        state = TrainState(start, outer_opt_state, states, step, key)
        if self.average:
            state = state._replace(average=start)
        if self.normalize_tasks:
            state = state._replace(task_scales=task_scales(len(self.task_names)))
        return self.place(state)

    def step(
        self, state: TrainState, datas: tuple[Data, ...]
    ) -> tuple[TrainState, Metrics]:
        """One outer step; pure."""
        keys = jax.random.split(state.key, len(self.groups) + 1)
        results = [
            self._estimate(
                i, state.theta, state.estimator_states[i], keys[i], datas[i], state.step
            )
            for i in range(len(self.groups))
        ]
        return self._finish(state, keys[-1], results, self._update)

    def compile(
        self, state: TrainState, on_group: Callable[[int, int], None] | None = None
    ) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
        """`step` as compiled programs: one a group, side by side, and one for theta.

        Args:
          state: of the shapes to compile for.
          on_group: called with (programs finished, programs in all).

        Returns:
          `state -> (state, metrics)`. The particles of its argument are donated.
        """
        lower = [partial(self._lower, i, state) for i in range(len(self.groups))]
        programs = compile_all(lower, on_group)
        split = jax.jit(lambda key: tuple(jax.random.split(key, len(self.groups) + 1)))
        update = jax.jit(self._update)

        def step(state: TrainState) -> tuple[TrainState, Metrics]:
            keys = split(state.key)
            results = [
                program(state.theta, states, key, group.data, state.step)
                for program, states, key, group in zip(
                    programs, state.estimator_states, keys, self.groups, strict=False
                )
            ]
            return self._finish(state, keys[-1], results, update)

        return step

    def _lower(self, i: int, state: TrainState) -> jax.stages.Lowered:
        """The program of a group; its particles stay where they are."""
        states = state.estimator_states[i]
        shardings = jax.tree.map(lambda x: x.sharding, states)
        program = jax.jit(
            partial(self._estimate, i),
            out_shardings=(None, shardings),
            donate_argnums=1,
        )
        data = self.groups[i].data
        return program.lower(state.theta, states, state.key, data, state.step)

    def place(self, state: TrainState) -> TrainState:
        """The state on the devices there are: pairs shared out, the rest on each."""
        num_pairs = [jax.tree.leaves(s)[0].shape[1] for s in state.estimator_states]
        num_devices = math.gcd(len(jax.devices()), *num_pairs)
        mesh = Mesh(jax.devices()[:num_devices], ("pairs",))
        shared, replicated = (
            NamedSharding(mesh, spec) for spec in (P(None, "pairs"), P())
        )
        states = jax.device_put(state.estimator_states, shared)
        rest = jax.device_put(state._replace(estimator_states=()), replicated)
        return rest._replace(estimator_states=states)

    def _estimate(self, i: int, theta, states, key, data, step):
        """The meta-gradients of a group, leaves [tasks, ...], and its new particles."""
        group, progress = self.groups[i], step / self.outer_steps
        estimate = _over_tasks(
            lambda *args: group.estimator.estimate(*args, progress), group
        )
        result, states = estimate(theta, states, key, data)
        counts = jnp.sum(result.num_diverged), jnp.sum(result.num_steps)
        return MetaGradient(result.grad, result.loss, *counts), states

    def _finish(self, state: TrainState, key: PRNGKey, results, update):
        """Theta's update; the old particles are gone by now, the new ones untouched."""
        gradients, particles = zip(*results, strict=True)
        state, metrics = update(state._replace(estimator_states=()), key, gradients)
        return state._replace(estimator_states=particles), metrics

    def _update(self, state: TrainState, key: PRNGKey, gradients):
        """A state without particles, one step on, and what the step reports."""
        grads = jax.tree.map(lambda *g: jnp.concatenate(g), *[g.grad for g in gradients])
        if state.task_scales:
            grads, scales = normalized(grads, state.task_scales)
            state = state._replace(task_scales=scales)
        weights = jnp.asarray([w for group in self.groups for w in group.weights])
        grad = jax.tree.map(lambda g: jnp.tensordot(weights, g, axes=1), grads)
        losses = jnp.concatenate([g.loss for g in gradients])
        theta, opt_state, finite = self._apply(state, grad)
        num_steps = sum(g.num_steps for g in gradients)
        metrics = Metrics(
            loss=jnp.sum(weights * losses),
            task_losses=losses,
            grad_norm=optax.tree.norm(grad),
            num_diverged=sum(g.num_diverged for g in gradients),
            num_steps=num_steps,
            skipped=~finite,
        )
        state = state._replace(
            theta=theta, outer_opt_state=opt_state, step=state.step + 1, key=key
        )
        if state.average:
            average = averaged(state.average, theta, state.step, self.average)
            state = state._replace(average=average)
        if state.selected:
            credit = state.selected.credit + num_steps.astype(jnp.float32)
            state = state._replace(selected=state.selected._replace(credit=credit))
        return state, metrics

    def _apply(self, state: TrainState, grad: MetaParams):
        """Theta and its optimizer's state, one step on; as they were if not finite."""
        updates, opt_state = self.outer_optimizer.update(
            grad, state.outer_opt_state, state.theta
        )
        finite = jnp.all(
            jnp.asarray([jnp.all(jnp.isfinite(u)) for u in jax.tree.leaves(updates)])
        )
        theta = optax.apply_updates(state.theta, updates)
        theta, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (theta, opt_state),
            (state.theta, state.outer_opt_state),
        )
        return theta, opt_state, finite


def _over_tasks(function, group: TaskGroup):
    """`(theta, ..., key, data)` for one task -> for the stacked tasks of a group."""

    def over(theta, *args):
        *rest, key, data = args
        keys = jax.random.split(key, len(group.names))
        axes = (None, *[0] * (len(rest) + 2))
        return mapped(function, axes, len(group.names))(theta, *rest, keys, data)

    return over
