"""What a step of each optimizer costs a training script: time and memory.

    python scripts/bench_update.py
    python scripts/bench_update.py --sizes 1e6 --only celo2 layerwise --repeats 5

Multilayer perceptrons of about one and ten million parameters, on one process with all
its cores. Contestants take turns, so that ratios are of one hour. Written are, to
benchmarks/update.json: milliseconds of an update, its ratio to `optax.adamw` and to
`optax.contrib.muon`, its share of a gradient on a minibatch of 64, the transient memory
in bytes for each element of the largest tensor, and bytes of state per parameter.
"""

import argparse
import itertools
import json
import platform
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from bench_report import show

from lopt import mup
from lopt.optimizers import OPTIMIZERS

ROOT = Path(__file__).resolve().parents[1]
INPUTS, CLASSES, BATCH = 784, 10, 64
LEARNED = {
    "layerwise": {},
    "layerwise, adam alone": {"bases": ("adam",)},
    "celo2": {},
    "celo2, not orthogonalized": {"orthogonalize": False},
    "adafac_mlp": {},
    "mup_adafac": {},
    "mlp": {},
    "rnn_mlp": {},
    "celo": {},
    "velo": {"hidden_size": 512, "num_networks": 256},
}


def main() -> None:
    options = parse()
    rows = [row for size in options.sizes for row in measured(size, options)]
    show("update", rows)
    record = {
        "machine": f"{platform.machine()}, {len(jax.devices())} x {jax.devices()[0]}",
        "jax": jax.__version__,
        "rows": rows,
    }
    if not options.dry_run:
        path = ROOT / "benchmarks" / "update.json"
        path.write_text(json.dumps(record, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=lambda x: [float(n) for n in x.split(",")])
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[*LEARNED])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    parser.set_defaults(sizes=[1e6, 1e7])
    return parser.parse_args()


def shapes_of(num_params: float) -> dict[str, tuple[int, ...]]:
    """Three hidden layers, as wide as the number of parameters wants."""
    width = 8
    while INPUTS * width + 2 * width**2 + width * CLASSES < num_params:
        width += 8
    sizes = (INPUTS, width, width, width, CLASSES)
    pairs = list(itertools.pairwise(sizes))
    return {
        **{f"w{i}": pair for i, pair in enumerate(pairs)},
        **{f"b{i}": pair[1:] for i, pair in enumerate(pairs)},
    }


def measured(num_params: float, options: argparse.Namespace) -> list[dict]:
    """A row for each contestant; the first two are what they are compared with."""
    key = jax.random.key(0)
    shapes = shapes_of(num_params)
    params = {
        name: jax.random.normal(jax.random.fold_in(key, i), shape) / shape[0] ** 0.5
        for i, (name, shape) in enumerate(shapes.items())
    }
    grads = jax.tree.map(lambda p: 0.01 * p, params)
    specs = mup.infer_specs(params)
    contestants = {"adamw": optax.adamw(1e-3), "muon": optax.contrib.muon(1e-3)}
    for name in options.only:
        lopt = OPTIMIZERS[name.split(",")[0]](**LEARNED[name])
        contestants[name] = lopt.opt_fn(lopt.init(key), specs=specs, num_steps=1000)
    steps = {
        name: prepared(optax.with_extra_args_support(optimizer), params, grads)
        for name, optimizer in contestants.items()
    }
    gradient = jax.jit(jax.grad(loss))
    batch = jax.random.normal(key, (BATCH, INPUTS)), jnp.zeros(BATCH, jnp.int32)
    calls = {name: step["call"] for name, step in steps.items()}
    calls["gradient"] = lambda: jax.block_until_ready(gradient(params, *batch))
    seconds = in_turns(calls, options.repeats)
    total = sum(p.size for p in params.values())
    largest = max(p.size for p in params.values())
    return [
        {
            "parameters": total,
            "optimizer": name,
            "ms": round(1e3 * seconds[name], 3),
            "/ adamw": round(seconds[name] / seconds["adamw"], 2),
            "/ muon": round(seconds[name] / seconds["muon"], 2),
            "/ gradient": round(seconds[name] / seconds["gradient"], 2),
            "transient B/element": round(step["transient"] / largest, 1),
            "state B/parameter": round(step["state"] / total, 1),
        }
        for name, step in steps.items()
    ]


def loss(params: dict, x: jax.Array, y: jax.Array) -> jax.Array:
    """Cross-entropy of the network that the shapes belong to."""
    num_layers = len(params) // 2
    for i in range(num_layers):
        x = x @ params[f"w{i}"] + params[f"b{i}"]
        x = jax.nn.relu(x) if i + 1 < num_layers else x
    return optax.softmax_cross_entropy_with_integer_labels(x, y).mean()


def prepared(optimizer: optax.GradientTransformationExtraArgs, params, grads) -> dict:
    """A compiled step, which keeps its state, and what it takes of memory."""

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params, value=jnp.float32(1))
        return optax.apply_updates(params, updates), state

    # The step owns what it donates.
    own = jax.tree.map(jnp.copy, params)
    carry = [own, jax.jit(optimizer.init)(params)]
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*carry, grads).compile()

    def call():
        carry[:] = compiled(*carry, grads)
        jax.block_until_ready(carry)

    state = sum(x.nbytes for x in jax.tree.leaves(carry[1]))
    transient = compiled.memory_analysis().temp_size_in_bytes
    return {"call": call, "state": state, "transient": transient}


def in_turns(calls: dict, repeats: int) -> dict[str, float]:
    """The median seconds of each call, all of them in every round."""
    found = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            call()  # what another has left of clock and caches is not its business
            start = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in found.items()}


if __name__ == "__main__":
    main()
