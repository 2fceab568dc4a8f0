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
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
from lopt.mixtures import Factors, Mixture
from lopt.outer import (
    Metrics,
    Selected,
    TaskScales,
    TrainState,
    averaged,
    normalized,
    task_scales,
    updated,
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
      mixture: which groups take part in which step; None: all in every one.
    """

    lopt: LearnedOptimizer
    groups: tuple[TaskGroup, ...]
    outer_optimizer: optax.GradientTransformation
    outer_steps: int
    average: float = 0.0
    normalize_tasks: bool = False
    mixture: Mixture | None = None

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
        """Each group's data, the first chunk of those that are streamed."""
        return tuple(group.data for group in self.groups)

    @property
    def groups_per_step(self) -> int:
        """How many groups an outer step takes, once all have entered."""
        number = self.mixture.number if self.mixture else 0
        return min(number or len(self.groups), len(self.groups))

    def factors(self, done: int) -> Factors:
        """What `step` is told after `done` steps."""
        return self.mixture.factors(done) if self.mixture else None

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
        self, state: TrainState, datas: tuple[Data, ...], factors: Factors = None
    ) -> tuple[TrainState, Metrics]:
        """One outer step; pure.

        Args:
          state: before it.
          datas: each group's data.
          factors: of each group's weight; at 0 its particles wait.
        """

        def estimate(i: int, states: EstimatorState):
            return self._estimate(i, state.theta, states, state.key, datas[i], state.step)

        def resting(i: int) -> MetaGradient:
            result, _ = jax.eval_shape(partial(estimate, i), state.estimator_states[i])
            return _zeros(result)

        return self._step(state, factors, estimate, resting, self._update)

    def compile(
        self, state: TrainState, on_group: Callable[[int, int], None] | None = None
    ) -> Callable[..., tuple[TrainState, Metrics]]:
        """`step` as compiled programs: one a group, side by side, and one for theta.

        Args:
          state: of the shapes to compile for; placed, or the shapes alone, `placed`.
          on_group: called with (programs finished, programs in all).

        Returns:
          `(state, datas, factors=None) -> (state, metrics)`, as `step`. The particles of
          its argument are donated; data, of the shapes of `datas`, are not.
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

        @cache
        def resting(i: int) -> MetaGradient:
            return jax.device_put(_zeros(gradients[i]), state.step.sharding)

        def step(
            now: TrainState, datas: tuple[Data, ...], factors: Factors = None
        ) -> tuple[TrainState, Metrics]:
            def estimate(i: int, states: EstimatorState):
                return programs[i](now.theta, states, now.key, datas[i], now.step)

            return self._step(now, factors, estimate, resting, update)

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
        weights = jax.ShapeDtypeStruct((len(self.task_names),), jnp.float32)
        return jax.jit(self._update).lower(rest, gradients, weights)

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

    def _step(self, state: TrainState, factors: Factors, estimate, resting, update):
        """Theta's update; by then, old particles are gone but for those that rest."""
        factors = [1.0] * len(self.groups) if factors is None else factors
        results = [
            estimate(i, states) if factor else (resting(i), states)
            for i, (states, factor) in enumerate(
                zip(state.estimator_states, factors, strict=True)
            )
        ]
        gradients, particles = zip(*results, strict=True)
        weights = [
            f * w for f, g in zip(factors, self.groups, strict=True) for w in g.weights
        ]
        rest = state._replace(estimator_states=())
        rest, metrics = update(rest, gradients, jnp.asarray(weights, jnp.float32))
        return rest._replace(estimator_states=particles), metrics

    def _update(self, state: TrainState, gradients, weights: Array):
        """A state without particles, one step on, and what the step reports."""
        grads = jax.tree.map(lambda *g: jnp.concatenate(g), *[g.grad for g in gradients])
        if isinstance(state.task_scales, TaskScales):
            grads, scales = normalized(grads, state.task_scales, weights > 0)
            state = state._replace(task_scales=scales)
        grad = jax.tree.map(lambda g: jnp.tensordot(weights, g, axes=1), grads)
        losses = jnp.concatenate([g.loss for g in gradients])
        theta, opt_state, finite = updated(
            self.outer_optimizer, grad, state.outer_opt_state, state.theta
        )
        num_steps = jnp.sum(jnp.stack([g.num_steps for g in gradients]))
        metrics = Metrics(
            loss=jnp.sum(weights * losses),
            task_losses=losses,
            stepped=weights > 0,
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


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
