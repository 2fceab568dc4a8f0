"""What the benchmarks of meta-training measure, and how they take turns at the clock.

The work: one MLP 64-32-10 on the digits, batch 128, 8 antithetic pairs (16 inner runs),
truncations of 50 steps, run lengths log-uniform in [100, 2000], the meta-loss read on the
minibatches that the steps are taken on: nothing but inner steps. Every part of it is a
field of `Case`. Imported by bench_meta_train.py, bench_peer.py and profile_meta_train.py.
"""

import inspect
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import optax
from bench_sides import Call
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lopt.base import Task
from lopt.estimators import ESTIMATORS
from lopt.families.mlp import mlp
from lopt.groups import group_tasks
from lopt.optimizers import OPTIMIZERS
from lopt.suites import SuiteTask
from lopt.trainer import Trainer, TrainState
from lopt.unroll import inner_step, unroll

PATIENCE = 4
"""How much longer than its `turns` times `seconds` a contestant may take."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One piece of work.

    Attributes:
      estimator: a name in `ESTIMATORS`.
      optimizer: a name in `OPTIMIZERS`.
      width: units of the hidden layers.
      depth: number of hidden layers.
      particles: inner runs side by side, both signs counted; even.
      tasks: how many tasks of this one shape.
      length: K, inner steps of a truncation.
      min_steps: shortest run.
      max_steps: longest run.
      options: of the estimator, beside what `particles` says.
      optimizer_options: of the optimizer.
    """

    estimator: str = "pes"
    optimizer: str = "layerwise"
    width: int = 32
    depth: int = 1
    particles: int = 16
    tasks: int = 1
    length: int = 50
    min_steps: int = 100
    max_steps: int = 2000
    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)

    def task(self) -> Task:
        """The network."""
        return mlp(width=self.width, depth=self.depth, batch_size=128)

    def trainer(self) -> Trainer:
        """What meta-trains this."""
        task = self.task()
        lopt = OPTIMIZERS[self.optimizer](**self.optimizer_options)
        entry = SuiteTask(
            task=task,
            weight=1.0,
            min_steps=self.min_steps,
            max_steps=self.max_steps,
            num_steps=500,
        )
        inner = unroll(
            task,
            lopt,
            length=self.length,
            min_steps=self.min_steps,
            max_steps=self.max_steps,
            meta_split="train",
            meta_transform="raw",
        )
        estimator = ESTIMATORS[self.estimator](inner, **self._estimator_options())
        groups = group_tasks([entry] * self.tasks, lambda _: estimator)
        return Trainer(lopt, groups, optax.adam(3e-3), outer_steps=1000)

    def _estimator_options(self) -> dict[str, Any]:
        known = inspect.signature(ESTIMATORS[self.estimator]).parameters
        sizes = {
            "num_pairs": self.particles // 2,
            "num_runs": self.particles,
            "population": self.particles,
        }
        return {k: v for k, v in sizes.items() if k in known} | dict(self.options)


def outer_steps(trainer: Trainer, state: TrainState | None = None) -> Call:
    """Each call is one outer step."""
    state = trainer.init(jax.random.key(0)) if state is None else state
    step = trainer.compile(state)

    def call() -> int:
        nonlocal state
        state, metrics = step(state, trainer.datas)
        jax.block_until_ready(metrics)
        return int(metrics.num_steps)

    return call


def floor(
    transform: optax.GradientTransformation,
    task: Task,
    *,
    particles: int = Case.particles,
    length: int = Case.length,
    sharded: bool = True,
) -> Call:
    """Each call is one truncation of as many inner runs by a plain optax optimizer.

    Args:
      transform: the optimizer.
      task: what is trained.
      particles: inner runs side by side.
      length: K, inner steps of a truncation.
      sharded: whether they are spread over the devices, or all on the first.
    """
    optimizer = optax.with_extra_args_support(transform)
    devices = jax.devices() if sharded else jax.devices()[:1]
    layout = NamedSharding(Mesh(devices, ("pairs",)), P("pairs"))
    keys = jax.random.split(jax.random.key(0), particles)
    params, model_states = jax.vmap(lambda key: task.init(key, task.data))(keys)
    states = params, model_states, jax.vmap(optimizer.init)(params)
    states = jax.device_put(states, layout)

    def train(state, key, data):
        def step(carry, keys):
            loss, *carry = inner_step(task, optimizer, *carry, keys, data)
            return tuple(carry), loss

        return jax.lax.scan(step, state, jax.random.split(key, (length, 2)))

    run = jax.jit(jax.vmap(train, in_axes=(0, 0, None)), donate_argnums=0)
    keys = jax.device_put(keys, layout)
    data = jax.device_put(task.data, NamedSharding(layout.mesh, P()))

    def call() -> int:
        nonlocal states
        states, losses = run(states, keys, data)
        jax.block_until_ready(losses)
        return particles * length

    return call


def same_bases() -> optax.GradientTransformation:
    """Every base of `layerwise` by plain optax, their directions added."""
    directions = (
        optax.contrib.muon(-1.0),  # its sign like the others: a direction of ascent
        optax.scale_by_adam(),
    )

    def update(grads, states, params=None):
        results = [
            d.update(grads, s, params) for d, s in zip(directions, states, strict=True)
        ]
        total = jax.tree.map(lambda *u: -1e-3 * sum(u), *[u for u, _ in results])
        return total, tuple(state for _, state in results)

    return optax.GradientTransformation(
        lambda params: tuple(d.init(params) for d in directions), update
    )


def floors(case: Case, *, every: bool = True) -> dict[str, Call]:
    """What a case is measured against; at least Adam."""
    run = partial(floor, task=case.task(), particles=case.particles, length=case.length)
    calls = {"adam": run(optax.adam(1e-3))}
    if every and len(jax.devices()) > 1:
        calls["adam, unsharded"] = run(optax.adam(1e-3), sharded=False)
    if every and case.optimizer == "layerwise":
        calls["same bases"] = run(same_bases())
    return calls


def take_turns(
    calls: Mapping[str, Call], *, turns: int, seconds: float, clock: str = "wall"
) -> dict[str, float]:
    """Inner steps per second of each, medians over turns that follow one another.

    Args:
      calls: who takes part; compiled by a first call that is not timed.
      turns: how often each has its turn; fewer where one call lasts long.
      seconds: how long about a turn lasts; one call at least.
      clock: one of `bench_sides.CLOCKS`.
    """
    now = {"wall": time.perf_counter, "cpu": time.process_time}[clock]
    repeats, quota = {}, {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        once = time.perf_counter() - start
        repeats[name] = max(1, round(seconds / once))
        # Long calls need fewer turns to be sure of, and would take all the time.
        quota[name] = min(turns, max(1, round(PATIENCE * turns * seconds / once)))
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns):
        for name in (name for name in calls if turn < quota[name]):
            start = now()
            steps = sum(calls[name]() for _ in range(repeats[name]))
            rates[name].append(steps / (now() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def measure(
    cases: Sequence[Case], options: Any, *, all_floors: bool = True
) -> list[dict[str, Any]]:
    """Rates of cases that differ in nothing but the estimator, and of their floors.

    Args:
      cases: at least one.
      options: `turns`, `seconds` and `clock` of `take_turns`.
      all_floors: whether others than the sharded Adam are measured.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # programs compile side by side
        calls = dict(
            zip(
                [case.estimator for case in cases],
                pool.map(lambda case: outer_steps(case.trainer()), cases),
                strict=True,
            )
        )
    found = floors(cases[0], every=all_floors)
    below = {f"{name} (floor)": call for name, call in found.items()}
    rates = take_turns(
        calls | below, turns=options.turns, seconds=options.seconds, clock=options.clock
    )
    rows = []
    for case in cases:
        rate = rates[case.estimator]
        row = {
            "optimizer": case.optimizer,
            "estimator": case.estimator,
            "shape": f"{case.depth}x{case.width}",
            "particles": case.particles,
            "K": case.length,
            "inner steps/s": round(rate),
        }
        for name in below:
            row[name] = round(rates[name])
            row[f"/ {name.removesuffix(' (floor)')}"] = round(rate / rates[name], 3)
        rows.append(row)
        print(*[row[key] for key in list(row)[:6]], file=sys.stderr, flush=True)
    return rows


def surroundings() -> dict[str, Any]:
    """The machine and the versions that a record belongs to."""
    device = jax.devices()[0]
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, "
        f"{len(jax.devices())} x {device.device_kind}",
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "optax": optax.__version__,
    }
