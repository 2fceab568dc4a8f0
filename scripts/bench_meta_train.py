"""How fast meta-training runs: inner steps per second, its floor, and compile times.

    .venv/bin/python scripts/bench_meta_train.py [--out benchmarks/meta_train.json]

The work: one MLP 64-32-10 on the digits, batch 128, 8 antithetic pairs, truncations of
50 steps, run lengths log-uniform in [100, 2000], NRES. The floors train the same 16
particles with the same batches, sharded over the same devices, in one compiled scan:
by plain optax with the same bases (the sum of their directions), and by Adam alone. All
three take turns, and the figures are medians over the turns: compare the ratios, not
the rates of different runs.

Compile times are measured in processes of their own, with an empty cache ("cold") and
once more with the cache that the first one left ("warm"); for the one task, and for
everything that `tasks/digits.toml` compiles.

About 3 minutes on 2 cores. Expected there: at least 0.7 of the floor with the same
bases; cold at most 45 s and warm at most 5 s for the whole suite.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lopt.cli.process import set_up
from lopt.config import load_suite
from lopt.estimators import nres
from lopt.families.mlp import mlp
from lopt.groups import group_tasks
from lopt.optimizers.layerwise import layerwise
from lopt.run.build import build
from lopt.suites import SuiteTask
from lopt.trainer import Trainer
from lopt.unroll import inner_step, unroll

LENGTH, PAIRS = 50, 8
ROOT = Path(__file__).resolve().parent.parent


def digits_trainer() -> Trainer:
    """The work of the benchmark."""
    lopt = layerwise()
    task = mlp(width=32, depth=1, batch_size=128)
    entry = SuiteTask(task=task, weight=1.0, min_steps=100, max_steps=2000, num_steps=500)
    inner = unroll(task, lopt, length=LENGTH, min_steps=100, max_steps=2000)
    estimator = nres(inner, num_pairs=PAIRS, sigma=0.05)
    return Trainer(lopt, group_tasks([entry], lambda _: estimator), optax.adam(3e-3))


def same_bases() -> optax.GradientTransformation:
    """Every base of `layerwise` by plain optax, their directions added."""
    directions = (
        optax.contrib.muon(-1.0),  # its sign like the others: a direction of ascent
        optax.scale_by_adam(),
        optax.scale_by_lion(),
        optax.trace(0.9),
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


def floor(transform: optax.GradientTransformation):
    """`call()`: one truncation of all particles by a plain optax optimizer."""
    task = mlp(width=32, depth=1, batch_size=128)
    optimizer = optax.with_extra_args_support(transform)
    mesh = Mesh(jax.devices(), ("pairs",))
    keys = jax.random.split(jax.random.key(0), 2 * PAIRS)
    params = jax.vmap(lambda key: task.init(key, task.data)[0])(keys)
    states = (params, jax.vmap(optimizer.init)(params))
    states = jax.device_put(states, NamedSharding(mesh, P("pairs")))

    def train(state, key, data):
        def step(carry, keys):
            params, opt_state = carry
            loss, params, _, opt_state = inner_step(
                task, optimizer, params, (), opt_state, keys, data
            )
            return (params, opt_state), loss

        return jax.lax.scan(step, state, jax.random.split(key, (LENGTH, 2)))

    run = jax.jit(jax.vmap(train, in_axes=(0, 0, None))).lower(states, keys, task.data)
    run = run.compile()
    keys = jax.device_put(keys, run.input_shardings[0][1])

    def call():
        nonlocal states
        states, losses = run(states, keys, task.data)
        jax.block_until_ready(losses)

    return call


def ours():
    """`call()`: one outer step."""
    trainer = digits_trainer()
    state = trainer.init(jax.random.key(0))
    step = trainer.compile(state)

    def call():
        nonlocal state
        state, metrics = step(state)
        jax.block_until_ready(metrics)

    return call


def rates(turns: int, calls: int) -> dict[str, float]:
    """Inner steps per second of each, medians over turns."""
    contestants = {
        "lopt": ours(),
        "same_bases": floor(same_bases()),
        "adam": floor(optax.adam(1e-3)),
    }
    for call in contestants.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, call in contestants.items():
            start = time.perf_counter()
            for _ in range(calls):
                call()
            seconds[name].append((time.perf_counter() - start) / calls)
    steps = 2 * PAIRS * LENGTH
    return {name: steps / statistics.median(s) for name, s in seconds.items()}


def compile_seconds(what: str) -> dict[str, float]:
    """Seconds to build and compile in a process of its own, cold and then warm."""
    command = [sys.executable, __file__, "--compile-only", what]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        return {
            name: float(subprocess.check_output(command, env=environment, text=True))
            for name in ("cold", "warm")
        }


def compile_only(what: str) -> float:
    """Seconds from a trainer, its data loaded, to its compiled outer step."""
    is_suite = what == "suite"
    trainer = build(load_suite("digits", [])) if is_suite else digits_trainer()
    start = time.perf_counter()
    state = trainer.init(jax.random.key(0))
    step = trainer.compile(state)
    compiled = time.perf_counter()
    jax.block_until_ready(step(state))
    return compiled - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/meta_train.json")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--compile-only", choices=("task", "suite"))
    options = parser.parse_args()
    set_up()
    if options.compile_only:
        print(compile_only(options.compile_only))
        return
    rate = rates(options.turns, options.calls)
    result = {
        "command": "scripts/bench_meta_train.py",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, "
        f"{jax.default_backend()}, {len(jax.devices())} devices",
        "jax": jax.__version__,
        "inner_steps_per_second": {name: round(value) for name, value in rate.items()},
        "ratio_to_same_bases": round(rate["lopt"] / rate["same_bases"], 3),
        "ratio_to_adam": round(rate["lopt"] / rate["adam"], 3),
        "compile_seconds_one_task": compile_seconds("task"),
        "compile_seconds_digits_suite": compile_seconds("suite"),
    }
    print(json.dumps(result, indent=2))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
