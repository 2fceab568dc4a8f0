"""Coordinate check: does one rate suit every width?

    python scripts/coordinate_check.py

trains an MLP on the digits for five steps at widths 32 to 512, with each base optimizer
by itself and with mixtures under random theta, and fits the slope of log2 mean |change of
a layer's preactivations| over log2 width. With muP multipliers every slope should be near
0 (|slope| < 0.15); without them each optimizer has one above 0.5. It prints the slopes
and writes benchmarks/coordinate_check.json and .png. About 2 minutes on 2 cores.

Changes are measured, not values: logits at initialization shrink with width by design.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lopt.base import Array, Data, MetaParams, Params, ParamSpec, PRNGKey, Task
from lopt.bases import BASES
from lopt.families import mlp
from lopt.mup import Form
from lopt.optimizers import layerwise

WIDTHS = (32, 64, 128, 256, 512)
BASE_WIDTH = 32
DEPTH = 3
STEPS = 5
SEEDS = 4
CASES = (*BASES, "random theta")
SETTINGS: tuple[tuple[Form, bool], ...] = (
    ("mup", True),
    ("plain", True),
    ("plain", False),
)
"""The form of the model, and whether updates have their multipliers."""
OUT = Path(__file__).resolve().parents[1] / "benchmarks" / "coordinate_check.json"

LOPT = layerwise(bases=tuple(BASES), learning_rate=0.01)


def theta_of(case: str, key: PRNGKey) -> MetaParams:
    """Weights that choose one base (Adam for vectors that it has no direction for)."""
    theta = LOPT.init(key)
    if case == "random theta":
        leaves, treedef = jax.tree.flatten(theta)
        keys = jax.random.split(key, len(leaves))
        noise = [
            0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)
        ]
        return treedef.unflatten([x + n for x, n in zip(leaves, noise, strict=True)])
    network = theta["network"]
    last_bias = f"b{len(network) // 2 - 1}"
    # The first outputs are the logits of the mixture, one for each base.
    network[last_bias] = network[last_bias].at[tuple(BASES).index(case)].set(100.0)
    return theta


def preactivations(task: Task, params: Params, x_BxD: Array) -> list[Array]:
    """Of every layer of a ReLU MLP, the output last."""
    h_BxD, out = x_BxD, []
    for name in sorted(params):
        forward = task.specs[name]["w"].forward
        out.append(forward * (h_BxD @ params[name]["w"]) + params[name]["b"][None, :])
        h_BxD = jax.nn.relu(out[-1])
    return out


def compile_change(task: Task, *, multipliers: bool) -> Callable[..., Array]:
    """`(theta, key, data) -> mean |change| of each layer`, after some steps."""
    specs = task.specs if multipliers else jax.tree.map(without_width, task.specs)

    def change(theta: MetaParams, key: PRNGKey, data: Data) -> Array:
        optimizer = LOPT.opt_fn(theta, specs=specs, num_steps=100)
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
        x_BxD, _ = task.eval_batch(data, "valid")
        before = preactivations(task, params, x_BxD)
        after = preactivations(task, trained, x_BxD)
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
    cases: Sequence[str] = CASES,
    widths: Sequence[int] = WIDTHS,
    seeds: int = SEEDS,
) -> dict[str, np.ndarray]:
    """For each case the mean |change|, [widths, layers], averaged over seeds.

    Args:
      form: of the model.
      multipliers: whether updates have their muP multipliers.
      cases: names in `BASES`, or "random theta".
      widths: to train at.
      seeds: of initialization, minibatches and theta.
    """
    rows = {case: [] for case in cases}
    keys = jax.random.split(jax.random.key(0), seeds)
    for width in widths:
        task = mlp(width=width, depth=DEPTH, base_width=BASE_WIDTH, form=form)
        change = compile_change(task, multipliers=multipliers)
        for case in cases:
            runs = [change(theta_of(case, key), key, task.data) for key in keys]
            rows[case].append(np.mean(runs, axis=0))
    return {case: np.array(row) for case, row in rows.items()}


def slopes(widths: Sequence[int], change: np.ndarray) -> np.ndarray:
    """Least-squares slope of log2 change over log2 width, one a layer."""
    return np.polyfit(np.log2(widths), np.log2(change), 1)[0]


def main() -> None:
    results = {}
    for form, multipliers in SETTINGS:
        name = f"{form} form, {'with' if multipliers else 'without'} multipliers"
        results[name] = {}
        for case, change in changes(form, multipliers).items():
            fit = slopes(WIDTHS, change)
            print(f"{name:32} {case:13}", *(f"{slope:+.2f}" for slope in fit), flush=True)
            results[name][case] = {"change": change.tolist(), "slopes": fit.tolist()}
    OUT.parent.mkdir(exist_ok=True)
    command = "python scripts/coordinate_check.py"
    record = {"command": command, "seeds": SEEDS, "widths": WIDTHS, "results": results}
    OUT.write_text(json.dumps(record, indent=1) + "\n")
    plot(results)


def plot(results: dict) -> None:
    """One row a setting, one column a case: change over width, a line a layer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(results), len(CASES), figsize=(2.6 * len(CASES), 7), sharex=True, sharey="col"
    )
    layers = ["input", *(f"hidden {i + 1}" for i in range(DEPTH - 1)), "output"]
    for (row, setting), (column, case) in itertools.product(
        enumerate(results), enumerate(CASES)
    ):
        ax = axes[row, column]
        result = results[setting][case]
        for layer, values, slope in zip(
            layers, np.transpose(result["change"]), result["slopes"], strict=True
        ):
            ax.loglog(WIDTHS, values, "o-", base=2, label=f"{layer} {slope:+.2f}")
        ax.legend(fontsize=7, title="layer, slope", title_fontsize=7)
        ax.set_xticks(WIDTHS, [str(width) for width in WIDTHS], fontsize=7)
        ax.tick_params(axis="y", labelsize=7)
        if row == 0:
            ax.set_title(case)
        if column == 0:
            ax.set_ylabel(setting.replace(", ", "\n"), fontsize=9)
    figure.supxlabel("width")
    figure.suptitle("mean |change of preactivations| after 5 steps")
    figure.tight_layout()
    figure.savefig(OUT.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
