"""One language model in PyTorch and in jax, trained by one learned optimizer: one curve.

    python scripts/same_curve.py [--steps 500] [--out benchmarks/language_model]

Runs examples/language_model_torch.py and examples/language_model_jax.py from the same
weights, on the same batches, and writes both losses (JSON) and their picture. A minute on
two cores. Expected: losses that agree to 1e-5 of themselves in the first 20 steps and to
2e-3 in all 500, for rounding differs and training amplifies it; the means of the last 100
agree to 4e-4.
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import jax
import matplotlib
import numpy as np
import torch

matplotlib.use("agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import language_model  # noqa: E402
import language_model_jax  # noqa: E402
import language_model_torch  # noqa: E402


def both(num_steps):
    """Losses and seconds of the two, by name."""
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start.safetensors"
        language_model.save_start(start)
        found = {}
        for name, example in (
            ("torch", language_model_torch),
            ("jax", language_model_jax),
        ):
            began = time.perf_counter()
            with contextlib.redirect_stdout(sys.stderr):
                losses = example.main(num_steps, start)
            found[name] = losses, time.perf_counter() - began
    return found


def results(found, command):
    """What the JSON says."""
    (in_torch, _), (in_jax, _) = found["torch"], found["jax"]
    apart = np.abs(np.divide(in_torch, in_jax) - 1)
    tail = [np.mean(losses[-100:]) for losses in (in_torch, in_jax)]
    steps = [n for n in (1, 5, 10, 20, 50, 100, 200, 500) if n <= len(apart)]
    return {
        "command": command,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "versions": {"torch": torch.__version__, "jax": jax.__version__},
        "num_steps": len(apart),
        "largest_relative_difference_in_the_first": {
            n: float(f"{apart[:n].max():.2g}") for n in steps
        },
        "mean_of_the_last_100": {
            name: round(float(x), 4)
            for name, x in zip(("torch", "jax"), tail, strict=True)
        },
        "seconds": {name: round(seconds, 1) for name, (_, seconds) in found.items()},
        "losses": {name: np.round(x, 5).tolist() for name, (x, _) in found.items()},
    }


def draw(found, path):
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(7, 5), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    (in_torch, _), (in_jax, _) = found["torch"], found["jax"]
    top.plot(in_torch, label="PyTorch", color="tab:orange", linewidth=3, alpha=0.5)
    top.plot(in_jax, label="jax", color="tab:blue", linewidth=1)
    top.set(ylabel="loss, nats per byte", title="layerwise on a language model of bytes")
    top.legend()
    bottom.semilogy(np.abs(np.divide(in_torch, in_jax) - 1), color="black", linewidth=1)
    bottom.set(xlabel="step", ylabel="|torch / jax - 1|")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/language_model")
    args = parser.parse_args()
    found = both(args.steps)
    command = f"python scripts/same_curve.py --steps {args.steps}"
    told = results(found, command)
    args.out.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
    draw(found, args.out.with_suffix(".png"))
    print(json.dumps({k: v for k, v in told.items() if k != "losses"}, indent=1))


if __name__ == "__main__":
    main()
