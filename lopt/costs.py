"""What a suite costs: the sizes of its tasks, and meta-training before it is paid.

And what an optimizer costs: its state, and the operations of an update.

Nothing about the seconds is assumed. The very programs that the run will execute are
compiled, which is not lost, for the compilation cache keeps them; then each is run for a
moment, at places spread over the outer steps, for run lengths may change with them. With
s_i the mean seconds of program i, n_i the outer steps that it takes part in, of N in all,
and u the seconds of theta's update,

    seconds = Σ_i n_i s_i + N u

Left out: checkpoints, selections (at most `selection.share` of the inner steps), what
the very first step takes longer, and whatever else the machine does meanwhile. On two
busy cores it was 11 % too low for `digits` once, and 11 % too high another time; for
`quick`, whose steps take 10 ms, half of the median step.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from lopt.base import Task
from lopt.checkpoint import Checkpoint
from lopt.config import RunConfig, Trust
from lopt.errors import CheckpointError
from lopt.families import FAMILIES
from lopt.groups import by_program
from lopt.run import build
from lopt.suites import SuiteTask
from lopt.trainer import TrainState

SECONDS, MOST_CALLS = 0.3, 8
"""Each program is run about so long, and twice at least, but no more often."""


@dataclass(frozen=True, kw_only=True)
class TaskSize:
    """How large a task is.

    Attributes:
      name: the task's.
      program: which of the suite's compiled programs it shares, from 1.
      parameters: numbers in all tensors.
      tensors: how many there are.
      data_bytes: of all splits.
      flops: floating-point operations of one gradient on a minibatch; see `flops`.
    """

    name: str
    program: int
    parameters: int
    tensors: int
    data_bytes: int
    flops: int


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """What meta-training takes on this machine, estimated.

    Attributes:
      programs: how many are compiled, one a group of tasks.
      compile_seconds: as measured, with the compilation cache as it was.
      outer_steps: how many there are.
      inner_steps: of all of them, all particles together.
      seconds: of all outer steps.
      task_seconds: of these, by task; tasks of one program share its seconds evenly.
    """

    programs: int
    compile_seconds: float
    outer_steps: int
    inner_steps: int
    seconds: float
    task_seconds: dict[str, float]


REFERENCE = {"width": 256, "depth": 2}
"""The MLP on the digits that an optimizer's costs are told of."""


@dataclass(frozen=True, kw_only=True)
class UpdateCost:
    """What an optimizer takes for each parameter of the reference network.

    What works on matrices, such as orthogonalization, takes more for wider ones.

    Attributes:
      network: in words.
      parameters: of the network, N.
      state_bytes: of its state, over N; the network's parameters are float32.
      flops: floating-point operations of an update, over N; see `flops`.
    """

    network: str
    parameters: int
    state_bytes: float
    flops: float


def update_cost(checkpoint: Checkpoint) -> UpdateCost:
    """What an optimizer takes, by its shapes and programs; nothing is compiled.

    Raises:
      CheckpointError: it is made for the tensors of another network.
    """
    task = FAMILIES["mlp"](**REFERENCE)
    optimizer = checkpoint.lopt.opt_fn(checkpoint.theta, specs=task.specs, num_steps=1000)

    def update(grads, state, params, value):
        return optimizer.update(grads, state, params, value=value)

    params, _ = jax.eval_shape(task.init, jax.random.key(0), task.data)
    try:
        state = jax.eval_shape(optimizer.init, params)
        value = jax.ShapeDtypeStruct((), np.float32)
        counted = flops(update, params, state, params, value)
    except ValueError as error:
        raise CheckpointError(f"`{checkpoint.path}`: {error}") from error
    number = sum(x.size for x in jax.tree.leaves(params))
    width, depth = REFERENCE["width"], REFERENCE["depth"]
    return UpdateCost(
        network=f"an MLP of {depth} layers of {width} on the digits",
        parameters=number,
        state_bytes=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
        / number,
        flops=counted / number,
    )


def task_sizes(tasks: Sequence[SuiteTask]) -> list[TaskSize]:
    """The sizes of a suite's tasks, in its order; nothing is compiled."""
    found = {}
    for i, group in enumerate(by_program(tasks)):
        counted = _gradient_flops(group[0].task)  # the same for all of them
        for task in (entry.task for entry in group):
            shapes = [spec.shape for spec in jax.tree.leaves(task.specs)]
            found[task.name] = TaskSize(
                name=task.name,
                program=i + 1,
                parameters=sum(int(np.prod(shape)) for shape in shapes),
                tensors=len(shapes),
                data_bytes=sum(x.nbytes for x in jax.tree.leaves(task.data)),
                flops=counted,
            )
    return [found[entry.task.name] for entry in tasks]


def _gradient_flops(task: Task) -> int:
    key = jax.random.key(0)
    params, model_state = jax.eval_shape(task.init, key, task.data)
    batch = jax.eval_shape(lambda k, d: task.batch(k, d, "train"), key, task.data)
    gradient = jax.value_and_grad(task.loss, has_aux=True)
    return flops(gradient, params, model_state, batch, key)


def flops(function: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of a function, by jax's cost analysis of its program.

    That analysis counts the body of a loop once; here it counts as often as `lax.scan`
    runs it. The bodies of `lax.while_loop` still count once, whose length nobody knows.
    Transcendental functions are not counted.

    Args:
      function: pure, of arrays.
      args: pytrees of arrays or of their shapes.
    """
    return round(_flops(jax.make_jaxpr(function)(*args))[1])


def _flops(jaxpr: ClosedJaxpr) -> tuple[float, float]:
    """With each loop counted once, and in all."""
    lowered = jax.jit(jaxpr_as_fun(jaxpr)).lower(*jaxpr.in_avals)
    once = in_all = (lowered.cost_analysis() or {}).get("flops", 0.0)
    for body, length in _scans(jaxpr.jaxpr):
        counted, each = _flops(body)
        in_all += length * each - counted
    return once, in_all


def _scans(jaxpr: Any) -> Iterator[tuple[ClosedJaxpr, int]]:
    """The outermost scans of a program, bodies and lengths, wherever they are."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield equation.params["jaxpr"], equation.params["length"]
            continue
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _scans(inner)


def training_cost(config: RunConfig, *, trust: Trust = False) -> TrainingCost:
    """What meta-training by this configuration takes, measured as said above.

    Args:
      config: resolved.
      trust: whether Python files that it names may be run.

    Raises:
      ConfigError: as `lopt.run.build`.
    """
    trainer = build(config, trust=trust)
    started = time.perf_counter()
    compiled = trainer.compile(trainer.placed(trainer.shapes()))
    step = partial(compiled, datas=jax.device_put(trainer.datas))
    state = trainer.init(jax.random.key(config.seed))
    compile_seconds = time.perf_counter() - started

    number, total = len(trainer.groups), config.outer_steps
    state, update, _ = _timed(step, state, (0.0,) * number, total)
    seconds, inner_steps, by_task = total * update, 0.0, {}
    for i, count in enumerate(_steps_of_groups(trainer.factors, number, total)):
        alone = tuple(float(i == j) for j in range(number))
        state, each, taken = _timed(step, state, alone, total)
        of_group = count * max(each - update, 0.0)
        seconds, inner_steps = seconds + of_group, inner_steps + count * taken
        names = trainer.groups[i].names
        by_task |= {name: of_group / len(names) for name in names}
    return TrainingCost(
        programs=number,
        compile_seconds=compile_seconds,
        outer_steps=total,
        inner_steps=round(inner_steps),
        seconds=seconds,
        task_seconds=by_task,
    )


def _steps_of_groups(factors, number: int, outer_steps: int) -> list[int]:
    """In how many outer steps each group takes part."""
    counts = np.zeros(number, int)
    for done in range(outer_steps):
        told = factors(done)
        counts += 1 if told is None else np.asarray(told) > 0
    return counts.tolist()


def _timed(
    step: Callable[..., Any], state: TrainState, factors: tuple[float, ...], total: int
) -> tuple[TrainState, float, float]:
    """The state afterwards, and mean seconds and inner steps of an outer step."""

    def call(place: float) -> tuple[float, int]:
        nonlocal state
        done = jax.device_put(np.int32(place * total), state.step.sharding)
        started = time.perf_counter()
        state, metrics = step(state._replace(step=done), factors=factors)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - started, int(metrics.num_steps)

    call(0.0)  # what only the first call does is no part of it
    first, _ = call(0.5)
    calls = int(np.clip(SECONDS / first, 2, MOST_CALLS))
    measured = [call((i + 0.5) / calls) for i in range(calls)]
    seconds, steps = np.mean(measured, axis=0)
    return state, float(seconds), float(steps)
