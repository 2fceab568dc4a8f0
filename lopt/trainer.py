"""The outer loop: estimate on every group of tasks, average, update theta. No I/O.

Tasks that share functions, specs, data shapes and run lengths form a `TaskGroup`: their
data are stacked and one compiled program serves all of them, vmapped over tasks, pairs
and signs. Pairs are sharded over the devices there are, so that two CPU cores or eight
accelerators run them side by side.
"""

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lopt import prng
from lopt.base import (
    Array,
    Data,
    EstimatorState,
    LearnedOptimizer,
    MetaGradient,
    MetaParams,
    PRNGKey,
)
from lopt.compiling import compile_lowered
from lopt.groups import TaskGroup, over_tasks
from lopt.outer import (
    Selected,
    TaskScales,
    averaged,
    normalized,
    task_scales,
    updated,
)


class TrainState(NamedTuple):
    """Everything that resuming needs, bit for bit; what a run does not use is ()."""

    theta: MetaParams
    outer_opt_state: optax.OptState
    estimator_states: tuple[EstimatorState, ...]  # one a group, leaves [tasks, N, ...]
    step: Array  # shape=[], int32: outer steps taken
    key: PRNGKey  # of all steps: each folds its number into it
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
    def _tasks(self) -> tuple[slice, ...]:
        """Which of all tasks are each group's."""
        ends = [0, *itertools.accumulate(len(group.names) for group in self.groups)]
        return tuple(slice(a, b) for a, b in itertools.pairwise(ends))

    @property
    def datas(self) -> tuple[Data, ...]:
        """Each group's data: the last argument of `step`."""
        return tuple(group.data for group in self.groups)

    def init(self, key: PRNGKey, theta: MetaParams | None = None) -> TrainState:
        """The state before the first outer step, from given meta-parameters or new."""
        # One program: operation by operation there would be dozens to compile.
        arguments = key, theta, self.datas
        shardings = self._shardings(self.shapes())
        program = jax.jit(self._init, out_shardings=shardings)
        return compile_lowered(program.lower(*arguments), small=True)(*arguments)

    def _init(self, key: PRNGKey, theta: MetaParams | None, datas) -> TrainState:
        num_tasks = len(self.task_names)
        keys = prng.split(key, num_tasks + 2)
        start = self.lopt.init(keys[-2]) if theta is None else theta
        start = jax.tree.map(jnp.asarray, start)
        states = tuple(
            over_tasks(group.estimator.init, group)(start, keys[tasks], data)
            for group, tasks, data in zip(self.groups, self._tasks, datas, strict=True)
        )
        outer_opt_state = self.outer_optimizer.init(start)
        step = jnp.zeros((), jnp.int32)
        state = TrainState(start, outer_opt_state, states, step, keys[-1])
        if self.average:
            state = state._replace(average=start)
        if self.normalize_tasks:
            state = state._replace(task_scales=task_scales(num_tasks))
        return state

    def shapes(self) -> TrainState:
        """A state's shapes and dtypes, without computing one."""
        return jax.eval_shape(self._init, jax.random.key(0), None, self.datas)

    def placed(self, shapes: TrainState) -> TrainState:
        """Such shapes with the devices that `place` puts them on."""
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            shapes,
            self._shardings(shapes),
        )

    def step(
        self, state: TrainState, datas: tuple[Data, ...]
    ) -> tuple[TrainState, Metrics]:
        """One outer step; pure."""
        results = [
            self._estimate(i, state.theta, states, state.key, data, state.step)
            for i, (states, data) in enumerate(
                zip(state.estimator_states, datas, strict=True)
            )
        ]
        return self._finish(state, results, self._update)

    def compile(
        self, state: TrainState, on_group: Callable[[int, int], None] | None = None
    ) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
        """`step` as compiled programs: one a group, side by side, and one for theta.

        Args:
          state: of the shapes to compile for; placed, or the shapes alone, `placed`.
          on_group: called with (programs finished, programs in all).

        Returns:
          `state -> (state, metrics)`. The particles of its argument are donated.
        """
        programs, futures, gradients = [], [], []
        with ThreadPoolExecutor() as pool:
            # Lowering holds the interpreter; one group compiles while the next lowers.
            for i in range(len(self.groups)):
                lowered = self._lower(i, state)
                gradients.append(lowered.out_info[0])
                futures.append(pool.submit(compile_lowered, lowered))
            lowered = self._lower_update(state, gradients)
            update = pool.submit(compile_lowered, lowered, small=True)
            for future in futures:
                programs.append(future.result())
                if on_group is not None:
                    on_group(len(programs), len(futures))
            update = update.result()

        def step(state: TrainState) -> tuple[TrainState, Metrics]:
            results = [
                program(state.theta, states, state.key, group.data, state.step)
                for program, states, group in zip(
                    programs, state.estimator_states, self.groups, strict=True
                )
            ]
            return self._finish(state, results, update)

        return step

    def _lower(self, i: int, state: TrainState) -> jax.stages.Lowered:
        """The program of a group; its particles stay where they are."""
        states = state.estimator_states[i]
        shardings = jax.tree.map(lambda x: x.sharding, states)
        program = jax.jit(
            partial(self._estimate, i),
            out_shardings=(state.step.sharding, shardings),
            donate_argnums=1,
        )
        data = self.groups[i].data
        return program.lower(state.theta, states, state.key, data, state.step)

    def _lower_update(self, state: TrainState, gradients) -> jax.stages.Lowered:
        """The program of theta, for gradients of these shapes."""
        everywhere = state.step.sharding
        gradients = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
            tuple(gradients),
        )
        rest = state._replace(estimator_states=())
        return jax.jit(self._update).lower(rest, gradients)

    def place(self, state: TrainState) -> TrainState:
        """The state on the devices there are: pairs shared out, the rest on each."""
        return jax.device_put(state, self._shardings(state))

    def _shardings(self, state: TrainState) -> TrainState:
        """Where each array of a state lies: particles shared out, the rest on each."""
        num_pairs = [jax.tree.leaves(s)[0].shape[1] for s in state.estimator_states]
        num_devices = math.gcd(len(jax.devices()), *num_pairs)
        mesh = Mesh(jax.devices()[:num_devices], ("pairs",))
        shared, everywhere = (
            NamedSharding(mesh, spec) for spec in (P(None, "pairs"), P())
        )
        particles = jax.tree.map(lambda _: shared, state.estimator_states)
        rest = jax.tree.map(lambda _: everywhere, state._replace(estimator_states=()))
        return rest._replace(estimator_states=particles)

    def _estimate(self, i: int, theta, states, key, data, step):
        """The meta-gradients of a group, leaves [tasks, ...], and its new particles."""
        group, progress = self.groups[i], step / self.outer_steps
        keys = prng.split(prng.fold_in(key, step), len(self.task_names))[self._tasks[i]]

        def estimate(theta, states, key, data):
            return group.estimator.estimate(theta, states, key, data, progress)

        result, states = over_tasks(estimate, group)(theta, states, keys, data)
        counts = jnp.sum(result.num_diverged), jnp.sum(result.num_steps)
        return MetaGradient(result.grad, result.loss, *counts), states

    def _finish(self, state: TrainState, results, update):
        """Theta's update; the old particles are gone by now, the new ones untouched."""
        gradients, particles = zip(*results, strict=True)
        state, metrics = update(state._replace(estimator_states=()), gradients)
        return state._replace(estimator_states=particles), metrics

    def _update(self, state: TrainState, gradients):
        """A state without particles, one step on, and what the step reports."""
        grads = jax.tree.map(lambda *g: jnp.concatenate(g), *[g.grad for g in gradients])
        if isinstance(state.task_scales, TaskScales):
            grads, scales = normalized(grads, state.task_scales)
            state = state._replace(task_scales=scales)
        weights = jnp.asarray([w for group in self.groups for w in group.weights])
        grad = jax.tree.map(lambda g: jnp.tensordot(weights, g, axes=1), grads)
        losses = jnp.concatenate([g.loss for g in gradients])
        theta, opt_state, finite = updated(
            self.outer_optimizer, grad, state.outer_opt_state, state.theta
        )
        num_steps = jnp.sum(jnp.stack([g.num_steps for g in gradients]))
        metrics = Metrics(
            loss=jnp.sum(weights * losses),
            task_losses=losses,
            grad_norm=optax.tree.norm(grad),
            num_diverged=jnp.sum(jnp.stack([g.num_diverged for g in gradients])),
            num_steps=num_steps,
            skipped=~finite,
        )
        state = state._replace(
            theta=theta, outer_opt_state=opt_state, step=state.step + 1
        )
        if state.average:
            average = averaged(state.average, theta, state.step, self.average)
            state = state._replace(average=average)
        if isinstance(state.selected, Selected):
            credit = state.selected.credit + num_steps.astype(jnp.float32)
            state = state._replace(selected=state.selected._replace(credit=credit))
        return state, metrics
