"""lopt beside google/learned_optimization: the same work, in turns, and the ratio.

    python scripts/bench_peer.py --python PATH

PATH is the python of an environment of the peer's own. To make one (Python 3.11, 3 GB):
`pip install jax==0.10.2 flax chex optax gin-config absl-py scikit-learn dm-haiku oryx
tensorflow-cpu tensorflow-datasets`, then commit 32186aa of the peer with
`pip install --no-deps`; its own pins no longer resolve.

The work is that of bench_work.py. The peer trains by its `SingleMachineGradientLearner`
with its defaults, and ("best") with whole truncations in one compiled call; its way to
stack both signs fails under this jax (a buffer donated twice). Its batches come from a
list made beforehand, so that it does not wait for data. Each side lives in a process of
its own and rests while the other works; figures are medians over turns. About 5 minutes
on 2 cores. Asked for: ratios to the peer's defaults of at least 4 (`mlp`), 5
(`adafac_mlp`) and, for backpropagation, 1.5.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

from bench_sides import CLOCKS, Side, in_turns, serve

ROOT = Path(__file__).resolve().parent.parent
PAIRS, LENGTH, MIN_STEPS, MAX_STEPS, BATCH = 8, 50, 100, 2000, 128
OPTIMIZERS = {"mlp": "MLPLOpt", "adafac_mlp": "AdafacMLPLOpt"}
ESTIMATORS = {"pes": "TruncatedPES", "tbptt": "TruncatedGrad"}


def our_calls():
    """Name -> what sets it up and returns a call: ours, and the floor."""
    import optax
    from bench_work import Case, floor, outer_steps

    import lopt.estimators
    from lopt.cli.process import set_up

    set_up()

    def setup(case):
        return lambda: outer_steps(case.trainer())

    setups = {
        f"{estimator} {optimizer}": setup(Case(estimator=estimator, optimizer=optimizer))
        for estimator, optimizer in itertools.product(ESTIMATORS, OPTIMIZERS)
        if estimator in lopt.estimators.ESTIMATORS
    }
    adam = optax.adam(1e-3)
    setups["adam"] = lambda: floor(adam, Case().task())
    setups["adam, unsharded"] = lambda: floor(adam, Case().task(), sharded=False)
    return setups


def peer_calls():
    """The same of the peer, by its public interface."""
    setups = {}
    for estimator, optimizer in itertools.product(ESTIMATORS, OPTIMIZERS):
        name = f"{estimator} {optimizer}"
        setups[name] = _peer_setup(estimator, optimizer, {})
        whole = {"steps_per_jit": LENGTH}
        setups[f"{name}, best"] = _peer_setup(estimator, optimizer, whole)
    return setups


def _peer_setup(estimator: str, optimizer: str, options: dict):
    import jax
    from learned_optimization.learned_optimizers import adafac_mlp_lopt, mlp_lopt
    from learned_optimization.optimizers import optax_opts
    from learned_optimization.outer_trainers import (
        gradient_learner,
        lopt_truncated_step,
        truncated_grad,
        truncated_pes,
        truncation_schedule,
    )
    from learned_optimization.tasks import base

    modules = (adafac_mlp_lopt, mlp_lopt, truncated_grad, truncated_pes)
    found = {name: getattr(m, name) for m in modules for name in dir(m)}

    def setup():
        lopt = found[OPTIMIZERS[optimizer]]()
        backward = estimator == "tbptt"
        steps = lopt_truncated_step.VectorizedLOptTruncatedStep(
            base.single_task_to_family(_digits_task()),
            lopt,
            truncation_schedule.LogUniformLengthSchedule(MIN_STEPS, MAX_STEPS),
            num_tasks=2 * PAIRS if backward else PAIRS,
            random_initial_iteration_offset=MAX_STEPS,
        )
        length = "trunc_length" if estimator == "pes" else "unroll_length"
        learner = gradient_learner.SingleMachineGradientLearner(
            lopt,
            [found[ESTIMATORS[estimator]](steps, **{length: LENGTH}, **options)],
            optax_opts.Adam(3e-3),
        )
        state = learner.init(jax.random.PRNGKey(0))
        keys = map(jax.random.PRNGKey, itertools.count(1))

        def call() -> int:
            nonlocal state
            state, loss, _ = learner.update(state, next(keys))
            float(loss)
            return 2 * PAIRS * LENGTH

        return call

    return setup


def _digits_task():
    """The peer's image MLP with one hidden layer of 32, on scikit-learn's digits."""
    import jax
    import numpy as np
    from learned_optimization.tasks.datasets.base import Datasets
    from learned_optimization.tasks.fixed import image_mlp
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    rng = np.random.default_rng(0)
    chosen = rng.integers(len(labels), size=(64, BATCH))
    batches = [{"image": images[i], "label": labels[i].astype(np.int32)} for i in chosen]
    shapes = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batches[0].items()
    }
    streams = [itertools.cycle(batches) for _ in range(4)]
    datasets = Datasets(*streams, extra_info={"num_classes": 10}, abstract_batch=shapes)
    return image_mlp._MLPImageTask(datasets, [32])


def show(results: dict[str, dict]) -> None:
    """The table, with the ratio of our rate to the peer's."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="inner steps per second (first call in seconds)")
    for column in ("", "lopt", "peer", "peer, best", "ratio", "ratio to best"):
        table.add_column(column, justify="left" if not column else "right")

    def cell(result):
        if result is None:
            return "", None
        rate, first = result["inner_steps_per_second"], result["first_call_seconds"]
        return f"{rate:,.0f} ({first:.1f})", rate

    for name, by_side in results.items():
        if "lopt" not in by_side:
            continue
        best = results.get(f"{name}, best", {})
        cells = [
            cell(r) for r in (by_side["lopt"], by_side.get("peer"), best.get("peer"))
        ]
        ratios = [f"{cells[0][1] / rate:.2f}" if rate else "" for _, rate in cells[1:]]
        table.add_row(name, *(text for text, _ in cells), *ratios)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", metavar="PATH", help="python of the peer")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/peer.json")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.5, help="about, of a turn")
    parser.add_argument("--side", choices=("lopt", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    if options.side:
        serve({"lopt": our_calls, "peer": peer_calls}[options.side]())
        return
    pythons = {"lopt": sys.executable, "peer": options.python}
    sides = {
        side: Side([python, __file__, "--side", side])
        for side, python in pythons.items()
        if python
    }
    results = in_turns(
        sides, turns=options.turns, seconds=options.seconds, clock=options.clock
    )
    for side in sides.values():
        side.end()
    show(results)
    from bench_work import surroundings

    record = {
        "command": "scripts/bench_peer.py --python PATH",
        "peer": "google/learned_optimization at 32186aa",
        **surroundings(),
        "clock": options.clock,
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
