"""Bias and variance of every estimator against the number of truncations in a run.

    .venv/bin/python scripts/estimator_variance.py [--out benchmarks/estimator_variance]

The problem: `learnable_sgd`, whose one meta-parameter is the logarithm of its rate, on a
noisy quadratic (curvatures 0.5 and 2, noise 3), truncations of 4 steps, runs of 1 to 16
truncations. Bias: the distance of the mean gradient from the exact one (the mean of
whole-run gradients by backpropagation), relative to it. Variance: of the gradient of one
pair, or of two runs; that of estimators of whole runs is multiplied by the truncations of
a run, for a call of theirs costs as much as so many of the others'.

Expected, as Li et al. 2023 (arXiv 2304.12180) report: PES's variance grows with the
number of truncations, NRES's does not, GPES lies between by its period; truncated ES and
backpropagation have the lowest variance and a bias. About three minutes on 2 cores.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from lopt import mup
from lopt.base import SPLITS, Task
from lopt.estimators import ESTIMATORS
from lopt.optimizers.learnable import learnable_sgd
from lopt.unroll import unroll

matplotlib.use("agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
LENGTH, COPIES, SIGMA = 4, 256, 0.02
CURVATURE, NOISE, RATE = (0.5, 2.0), 3.0, 0.2
PAIRS = {"num_pairs": 1, "sigma": SIGMA}
RUNS = {"num_runs": 2}
WHOLE = ("full_es", "full_gradient", "nes")
ROWS = {
    "es": ("es", PAIRS),
    "tbptt": ("tbptt", RUNS | {"clip_norm": 0.0}),
    "mixed (2 pairs)": ("mixed", PAIRS | {"num_pairs": 2, "clip_norm": 0.0}),
    "pes": ("pes", PAIRS),
    "gpes, period 2": ("gpes", PAIRS | {"period": 2}),
    "gpes, period 4": ("gpes", PAIRS | {"period": 4}),
    "nres": ("nres", PAIRS),
    "forward_gradient": ("forward_gradient", RUNS),
    "full_es": ("full_es", PAIRS),
    "full_gradient": ("full_gradient", RUNS),
}
"""By label; `nes` has no gradient's length to compare."""


def quadratic() -> Task:
    """½ Σ_i curvature_i (w_i − noise ε_i)², from w ~ N(0, 1)."""
    curvature = jnp.asarray(CURVATURE)
    dim = len(CURVATURE)

    def loss(params, model_state, batch, key):
        del key
        value = 0.5 * jnp.sum(curvature * (params["w"] - batch) ** 2)
        return value, (model_state, {})

    return Task(
        name="quadratic",
        data={split: jnp.zeros(dim) for split in SPLITS},
        specs=mup.infer_specs({"w": jnp.zeros(dim)}),
        loss_bound=1e4,
        init=lambda key, data: ({"w": jax.random.normal(key, (dim,))}, ()),
        batch=lambda key, data, split: NOISE * jax.random.normal(key, (dim,)),
        eval_batch=lambda data, split: data[split],
        loss=loss,
    )


def gradients(name: str, options: dict, num_truncations: int, copies: int) -> np.ndarray:
    """Of every call along whole runs, [copies, calls]; after the first, cut run."""
    task, lopt = quadratic(), learnable_sgd(learning_rate=RATE)
    steps = LENGTH * num_truncations
    inner = unroll(
        task, lopt, length=LENGTH, min_steps=steps, max_steps=steps,
        meta_split="train", meta_every=1, meta_transform="raw",
    )  # fmt: skip
    estimator = ESTIMATORS[name](inner, **options)
    theta = lopt.init(jax.random.key(0))
    skip, num = (0, 1) if name in WHOLE else (num_truncations, num_truncations)

    def one(key):
        def call(state, key):
            result, state = estimator.estimate(
                theta, state, key, task.data, jnp.float32(0)
            )
            return state, result.grad["log_lr"]

        state = estimator.init(theta, key, task.data)
        return jax.lax.scan(call, state, jax.random.split(key, skip + num))[1][skip:]

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), copies)))


def measure(truncations: list[int]) -> list[dict]:
    """A row for each estimator and number of truncations."""
    rows = []
    for num in truncations:
        exact_samples = gradients("full_gradient", {"num_runs": 64}, num, COPIES)
        exact = float(exact_samples.mean())
        for label, (name, options) in ROWS.items():
            grads = gradients(name, options, num, COPIES)
            means = grads.mean(axis=1)
            mean, error = float(means.mean()), means.std() / np.sqrt(len(means))
            rows.append(
                {
                    "estimator": label,
                    "truncations": num,
                    "exact": exact,
                    "mean": mean,
                    "relative_bias": abs(mean - exact) / abs(exact),
                    "relative_error": float(error / abs(exact)),
                    "variance": float(grads.var() * (num if name in WHOLE else 1)),
                }
            )
    return rows


def table(rows: list[dict], truncations: list[int]) -> str:
    """Variance and bias (± standard error) by estimator and truncations, Markdown."""
    head = "| estimator | " + " | ".join(f"variance, {n}" for n in truncations)
    last = truncations[-1]
    lines = [head + f" | bias, {last} |", "|---" * (len(truncations) + 2) + "|"]
    for label in ROWS:
        mine = [row for row in rows if row["estimator"] == label]
        cells = [f"{row['variance']:.3g}" for row in mine]
        bias, error = mine[-1]["relative_bias"], mine[-1]["relative_error"]
        lines.append(
            "| " + " | ".join([label, *cells, f"{bias:.2f} ± {error:.2f}"]) + " |"
        )
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    colors = plt.get_cmap("tab10")
    for i, label in enumerate(ROWS):
        mine = [row for row in rows if row["estimator"] == label]
        x = [row["truncations"] for row in mine]
        style = {"color": colors(i), "marker": "o", "markersize": 4, "label": label}
        left.plot(x, [row["variance"] for row in mine], **style)
        right.errorbar(
            x,
            [row["relative_bias"] for row in mine],
            yerr=[row["relative_error"] for row in mine],
            capsize=2,
            **style,
        )
    left.set(xscale="log", yscale="log", ylabel="variance for the cost of one pair")
    right.set(xscale="log", ylabel="distance from the exact gradient, relative")
    right.set_ylim(0, 0.7)
    for axes in (left, right):
        axes.set_xlabel("truncations in a run")
        axes.set_xticks(x, [str(n) for n in x])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/estimator_variance"
    )
    parser.add_argument("--truncations", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    options = parser.parse_args()
    start = time.perf_counter()
    rows = measure(options.truncations)
    print(table(rows, options.truncations))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "command": "scripts/estimator_variance.py",
        "jax": jax.__version__,
        "seconds": round(time.perf_counter() - start, 1),
        "rows": rows,
    }
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    plot(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
