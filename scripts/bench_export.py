"""Seconds and memory of a step in PyTorch, beside torch's own optimizers, in turns.

    python scripts/bench_export.py [RULE …] [--out benchmarks/export.json]

An MLP of 10 M parameters; rules by name, as `lopt list optimizers` has them, with weights
as initialized; "layerwise: adam" is `layerwise` without orthogonalized momentum, and
"layerwise: medium" with it in bfloat16, as torch's Muon has it, which
`torch.set_float32_matmul_precision("medium")` allows. All
optimizers take a step after each other, many times, in one process, so that what else the
machine does slows them alike. Memory is what is allocated at most during a step beyond
what was there before and after it. Making the weights needs jax, a step does not.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

WIDTH = 1824  # three square matrices of these: 10 M parameters


def network(width: int, *, biases: bool) -> nn.Module:
    layers = [nn.Linear(width, width, bias=biases) for _ in range(3)]
    return nn.Sequential(*layers)


def written(name: str, options: dict[str, Any], folder: Path) -> Path:
    """A file of this optimizer, its weights as initialized."""
    import jax
    import numpy as np

    from lopt.files import fileformat
    from lopt.optimizers import OPTIMIZERS
    from lopt.options import resolved

    factory = OPTIMIZERS[name]
    theta = factory(**options).init(jax.random.key(0))
    tensors = fileformat.flatten(jax.tree.map(np.asarray, theta))
    header = fileformat.Header(optimizer=name, options=resolved(factory, options))
    path = folder / f"{name}-{len(list(folder.iterdir()))}.safetensors"
    fileformat.write(path, tensors, header)
    return path


def contestants(rules: list[str], width: int, folder: Path) -> dict[str, Any]:
    """Optimizers by name, each with a model of its own that has gradients."""
    from lopt.torch import LearnedOptimizer

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def model(*, biases: bool = True) -> nn.Module:
        made = network(width, biases=biases).to(device)
        for p in made.parameters():
            p.grad = 1e-3 * torch.randn_like(p)
        return made

    def learned(name: str, options: dict[str, Any], **how: Any) -> Callable[[], Any]:
        file = written(name, options, folder)
        optimizer = LearnedOptimizer(model(**how), file, num_steps=10_000)
        return lambda: optimizer.step(loss=1.0)

    adamw = torch.optim.AdamW(model().parameters(), foreach=True)
    muon = torch.optim.Muon(model(biases=False).parameters())
    found = {"torch.optim.AdamW": adamw.step, "torch.optim.Muon": muon.step}
    for rule in rules:
        found[rule] = learned(rule, {}, biases=rule != "layerwise")
        if rule == "layerwise":
            found["layerwise: adam"] = learned(rule, {"bases": ("adam",)})
            found["layerwise: medium"] = in_medium(learned(rule, {}, biases=False))
    return found


def in_medium(step: Callable[[], Any]) -> Callable[[], Any]:
    """The step, products in bfloat16 allowed."""

    def run() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        step()
        torch.set_float32_matmul_precision(before)

    return run


def seconds(steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Of each optimizer's steps; all take turns."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            found[name].append(time.perf_counter() - start)
    return found


def transient_bytes(step: Callable[[], Any]) -> int:
    """Allocated at most during a step, beyond what was there before."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    gc.collect()
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    now = highest = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    return highest


def measured(rules: list[str], width: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        steps = contestants(rules, width, Path(folder))
        times = seconds(steps, rounds)
        memory = {name: transient_bytes(step) for name, step in steps.items()}
    adamw = times["torch.optim.AdamW"]
    muon = times["torch.optim.Muon"]

    def ratio(own: list[float], other: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(own, other, strict=True))

    return {
        name: {
            "milliseconds": round(1e3 * statistics.median(own), 2),
            "of_adamw": round(ratio(own, adamw), 2),
            "of_muon": round(ratio(own, muon), 2),
            "transient_bytes_per_element_of_largest": round(memory[name] / width**2, 1),
        }
        for name, own in times.items()
    }


def main() -> None:
    from lopt.torch.rules import RULES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rules", nargs="*", default=list(RULES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/export.json"))
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    results = measured(args.rules, args.width, args.rounds)
    has_gpu = torch.cuda.is_available()
    content = {
        "command": f"python scripts/bench_export.py {' '.join(args.rules)}",
        "machine": torch.cuda.get_device_name() if has_gpu else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": 3 * args.width**2,
        "load_average": os.getloadavg()[0],
        "optimizers": results,
    }
    args.out.write_text(json.dumps(content, indent=1) + "\n")
    for name, figures in results.items():
        print(name, *(f"{key} {value}" for key, value in figures.items()), sep="  ")


if __name__ == "__main__":
    main()
