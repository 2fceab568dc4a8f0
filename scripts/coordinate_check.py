"""Coordinate check: does one rate suit every width?

    python scripts/coordinate_check.py [FAMILY] [--architectures]

trains a task of a family (an MLP on the digits) for five steps at five widths, with each
base optimizer by itself and with mixtures under random theta, and fits the slope of log2
mean |change of a layer's preactivations| over log2 width. With muP multipliers every
slope should be near 0 (of MLPs |slope| < 0.15); without them each optimizer has one above
0.5. It prints the slopes and writes benchmarks/coordinate_check.json and .png, of other
families than MLPs coordinate_check-FAMILY. About 2 minutes on 2 cores.

With `--architectures` it is the published ones, under random theta, at two widths, that
are checked: coordinate_check-architectures-FAMILY; about 15 minutes a family. What is
measured again takes its old place in the files.

Changes are measured, not values: logits at initialization shrink with width by design.
They are those of what a family passes through `lopt.families.layers.preactivation`.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from lopt.base import Array, Data, LearnedOptimizer, MetaParams, ParamSpec, PRNGKey, Task
from lopt.bases import BASES
from lopt.families import FAMILIES
from lopt.mup import Form
from lopt.optimizers import OPTIMIZERS, layerwise

OPTIONS: dict[str, dict[str, Any]] = {
    "mlp": {"depth": 3, "base_width": 32},
    "convnet": {"depth": 1, "batch_size": 16, "base_width": 16},
    "regression": {"base_width": 32},
    "autoencoder": {"variational": True, "base_width": 32},
    "transformer": {"depth": 1, "sequence_length": 16, "batch_size": 8, "base_width": 32},
    "vit": {"depth": 1, "patch_size": 4, "batch_size": 16, "base_width": 32},
    "in_context": {"depth": 1, "batch_size": 64, "base_width": 32},
    "recurrent": {"sequence_length": 16, "batch_size": 8, "base_width": 32},
}
"""The task that stands for a family."""
MULTIPLES = (1, 2, 4, 8, 16)
"""Widths, over the base width."""
STEPS = 5
SEEDS = 4
CASES = (*BASES, "random theta")
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "learnable_sgd": {"learning_rate": 0.1},
    "learnable_sgdm": {"learning_rate": 0.1},
    "learnable_adam": {"learning_rate": 0.01},
    "nn_adam": {"learning_rate": 0.01},
    "mlp": {"step_mult": 0.01, "hidden_sizes": (8,)},
    "rnn_mlp": {"step_mult": 0.01, "hidden_size": 8, "hidden_sizes": (8,)},
    "adafac_mlp": {"step_mult": 0.01},
    "mup_adafac": {"step_mult": 0.01, "hidden_sizes": (8,)},
    "velo": {"step_mult": 0.0003, "hidden_size": 8, "num_networks": 64},
    "celo": {"step_mult": 0.3, "hidden_size": 8},
    "celo2": {"learning_rate": 0.01},
    "celo2-base": {
        "learning_rate": 0.01,
        "orthogonalize": False,
        "vectors": "learned",
    },
}
"""The published ones, small, at steps that move parameters visibly; those of `layerwise`
are checked above."""
ARCHITECTURE_MULTIPLES = (2, 8)
NOISE = {"random theta": 0.2}
"""What is added to theta, in standard deviations; to that of architectures 0.02, for
their networks are random from the start, and most of theta are logarithms."""
SETTINGS: tuple[tuple[Form, bool], ...] = (
    ("mup", True),
    ("plain", True),
    ("plain", False),
)
"""The form of the model, and whether updates have their multipliers."""
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@cache
def mixture(cases: Sequence[str]) -> LearnedOptimizer:
    """What mixes the bases among the cases."""
    bases = tuple(case for case in cases if case in BASES)
    return layerwise(bases=bases, learning_rate=0.01)


def lopt_of(case: str, cases: Sequence[str]) -> LearnedOptimizer:
    """The optimizer whose theta `theta_of` is."""
    if case in ARCHITECTURES:
        return OPTIMIZERS[case.removesuffix("-base")](**ARCHITECTURES[case])
    return mixture(cases)


def theta_of(case: str, cases: Sequence[str], key: PRNGKey) -> MetaParams:
    """Weights that choose one base (Adam for vectors that it has no direction for)."""
    theta = lopt_of(case, cases).init(key)
    if case not in BASES:
        leaves, treedef = jax.tree.flatten(theta)
        keys = jax.random.split(key, len(leaves))
        noise = [
            NOISE.get(case, 0.02) * jax.random.normal(k, x.shape)
            for k, x in zip(keys, leaves, strict=True)
        ]
        return treedef.unflatten([x + n for x, n in zip(leaves, noise, strict=True)])
    network = theta["network"]
    last_bias = f"b{len(network) // 2 - 1}"
    # The first outputs are the logits of the mixture, one for each base.
    network[last_bias] = network[last_bias].at[tuple(cases).index(case)].set(100.0)
    return theta


def preactivations(loss: Callable, *args: Any) -> list[Array]:
    """What is marked as such while a loss is computed, in order."""
    closed = jax.make_jaxpr(loss)(*args)
    marked = [e.outvars[0] for e in closed.jaxpr.eqns if e.primitive.name == "name"]
    inside = ClosedJaxpr(closed.jaxpr.replace(outvars=marked), closed.consts)
    return jaxpr_as_fun(inside)(*jax.tree.leaves(args))


def compile_change(
    task: Task, lopt: LearnedOptimizer, *, multipliers: bool
) -> Callable[..., Array]:
    """`(theta, key, data) -> mean |change| of each layer`, after some steps."""
    specs = task.specs if multipliers else jax.tree.map(without_width, task.specs)

    def change(theta: MetaParams, key: PRNGKey, data: Data) -> Array:
        optimizer = lopt.opt_fn(theta, specs=specs, num_steps=100)
        init_key, run_key = jax.random.split(key)
        params, state = task.init(init_key, data)

        def step(carry, step_key):
            params, opt_state = carry
            batch = task.batch(step_key, data, "train")
            value_and_grad = jax.value_and_grad(task.loss, has_aux=True)
            (loss, _), grads = value_and_grad(params, state, batch, step_key)
            updates, opt_state = optimizer.update(grads, opt_state, params, value=loss)
            return (optax.apply_updates(params, updates), opt_state), None

        carry = params, optimizer.init(params)
        (trained, _), _ = jax.lax.scan(step, carry, jax.random.split(run_key, STEPS))
        batch = task.eval_batch(data, "valid")
        before, after = (
            preactivations(task.loss, p, state, batch, run_key) for p in (params, trained)
        )
        return jnp.stack(
            [jnp.mean(jnp.abs(b - a)) for a, b in zip(before, after, strict=True)]
        )

    # Compiling takes longer than five steps do.
    return jax.jit(change, compiler_options={"xla_backend_optimization_level": 0})


def without_width(spec: ParamSpec) -> ParamSpec:
    return replace(spec, width_in=1.0, width_out=1.0, forward=1.0)


def changes(
    form: Form,
    multipliers: bool,
    *,
    family: str = "mlp",
    cases: Sequence[str] = CASES,
    multiples: Sequence[int] = MULTIPLES,
    seeds: int = SEEDS,
) -> dict[str, np.ndarray]:
    """For each case the mean |change|, [widths, layers], averaged over seeds.

    Args:
      form: of the model.
      multipliers: whether updates have their muP multipliers.
      family: of the task.
      cases: names in `BASES` first, then perhaps "random theta"; or in `ARCHITECTURES`.
      multiples: widths to train at, over the base width.
      seeds: of initialization, minibatches and theta.
    """
    rows = {case: [] for case in cases}
    keys = jax.random.split(jax.random.key(0), seeds)
    given = {**OPTIONS[family], "form": form}
    lopts = {case: lopt_of(case, cases) for case in cases}
    for multiple in multiples:
        task = FAMILIES[family](**given, width=multiple * given["base_width"])
        compiled = {
            lopt: compile_change(task, lopt, multipliers=multipliers)
            for lopt in lopts.values()
        }
        for case in cases:
            change = compiled[lopts[case]]
            runs = [change(theta_of(case, cases, key), key, task.data) for key in keys]
            rows[case].append(np.mean(runs, axis=0))
    return {case: np.array(row) for case, row in rows.items()}


def slopes(widths: Sequence[int], change: np.ndarray) -> np.ndarray:
    """Least-squares slope of log2 change over log2 width, one a layer.

    Widths may be over any base width, which moves the line but does not turn it.
    """
    return np.polyfit(np.log2(widths), np.log2(change), 1)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", nargs="?", default="mlp", choices=OPTIONS)
    parser.add_argument("--architectures", action="store_true")
    parser.add_argument("--case", action="append", help="only this one; repeatable")
    given = parser.parse_args()
    family, settings, multiples, groups = given.family, SETTINGS, MULTIPLES, [CASES]
    if given.architectures:
        multiples = ARCHITECTURE_MULTIPLES
        groups = [(case,) for case in given.case or ARCHITECTURES]
        settings = SETTINGS if family == "mlp" else SETTINGS[:2]
    widths = [multiple * OPTIONS[family]["base_width"] for multiple in multiples]
    kind = "-architectures" if given.architectures else ""
    ending = "" if family == "mlp" else f"-{family}"
    out = BENCHMARKS / f"coordinate_check{kind}{ending}.json"
    flag = " --architectures" if kind else ""
    record = {"command": f"python scripts/coordinate_check.py {family}{flag}"}
    record |= {"seeds": SEEDS, "widths": widths}
    results = json.loads(out.read_text())["results"] if out.exists() else {}
    for (form, multipliers), cases in itertools.product(settings, groups):
        name = f"{form} form, {'with' if multipliers else 'without'} multipliers"
        measured = changes(
            form, multipliers, family=family, cases=cases, multiples=multiples
        )
        for case, change in measured.items():
            fit = slopes(widths, change)
            print(f"{name:32} {case:14}", *(f"{slope:+.2f}" for slope in fit), flush=True)
            found = {"change": change.tolist(), "slopes": fit.tolist()}
            results.setdefault(name, {})[case] = found
        out.write_text(json.dumps(record | {"results": results}, indent=1) + "\n")
    plot(results, widths, out.with_suffix(".png"))


def plot(results: dict, widths: Sequence[int], out: Path) -> None:
    """One row a setting, one column a case: change over width, a line a layer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cases = list(next(iter(results.values())))
    size = (2.6 * len(cases), 0.7 + 2.1 * len(results))
    figure, axes = plt.subplots(
        len(results), len(cases), figsize=size, sharex=True, sharey="col"
    )
    for (row, setting), (column, case) in itertools.product(
        enumerate(results), enumerate(cases)
    ):
        ax = axes[row, column]
        result = results[setting].get(case)
        if result is None:
            continue
        for layer, (values, slope) in enumerate(
            zip(np.transpose(result["change"]), result["slopes"], strict=True)
        ):
            ax.loglog(widths, values, "o-", base=2, label=f"{layer} {slope:+.2f}")
        ax.legend(fontsize=7, title="layer, slope", title_fontsize=7)
        ax.set_xticks(widths, [str(width) for width in widths], fontsize=7)
        ax.tick_params(axis="y", labelsize=7)
        if row == 0:
            ax.set_title(case)
        if column == 0:
            ax.set_ylabel(setting.replace(", ", "\n"), fontsize=9)
    figure.supxlabel("width")
    figure.suptitle("mean |change of preactivations| after 5 steps")
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
