"""Seconds and memory of a step in training scripts, beside usual optimizers, in turns.

    python scripts/bench_export.py [RULE …] [--model NAME] [--optax] [--pylo FOLDER]

The model `mlp` has 10 M parameters, `small` 64 layers of 32 x 32, `gpt2` the 124 M of the
smallest GPT-2. Rules by name, as `lopt list optimizers` has them, with weights as
initialized; "layerwise: adam" is `layerwise` without orthogonalized momentum, and
"layerwise: medium" with it in bfloat16, as torch's Muon has it, which
`torch.set_float32_matmul_precision("medium")` allows. All optimizers take a step after
each other, many times, in one process, so that what else the machine does slows them
alike.

The floor is what reading the gradient, and reading and writing parameters and state once
would take at the bandwidth of a copy in the same run: what a fused kernel could reach.
Memory is what is allocated at most during a step beyond what was there before and after
it. `--optax` adds steps of the same optimizers in jax, compiled, and optax's AdamW;
`--pylo` adds the per-element optimizer of a checkout of PyLO, in plain torch. On a GPU:

    python scripts/bench_export.py --model gpt2 --optax --out benchmarks/export_gpu.json
"""

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

WIDTH = 1824  # three square matrices of these: 10 M parameters
HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"


@dataclass(frozen=True)
class Contestant:
    """An optimizer with a model of its own that has gradients.

    Attributes:
      step: takes one step, and waits for it where that is asynchronous.
      traffic: bytes that one step must read or write at least.
    """

    step: Callable[[], Any]
    traffic: int


def mlp(*, biases: bool = True) -> nn.Module:
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=biases) for _ in range(3)))


def small(*, biases: bool = True) -> nn.Module:
    return nn.Sequential(*(nn.Linear(32, 32, bias=biases) for _ in range(64)))


def gpt2(*, biases: bool = True) -> nn.Module:
    """Its parameters in their order; it computes nothing."""
    width, inner = 768, 3072

    def block() -> nn.Module:
        return nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 3 * width, bias=biases),
            nn.Linear(width, width, bias=biases),
            nn.LayerNorm(width),
            nn.Linear(width, inner, bias=biases),
            nn.Linear(inner, width, bias=biases),
        )

    embeddings = nn.Embedding(50257, width), nn.Embedding(1024, width)
    return nn.Sequential(*embeddings, *(block() for _ in range(12)), nn.LayerNorm(width))


MODELS = {"mlp": mlp, "small": small, "gpt2": gpt2}


def bytes_of(tensors: Iterable[Any]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors if isinstance(x, Tensor))


def traffic(params: list[Tensor], state: Iterable[Any]) -> int:
    """Of reading the gradient, and reading and writing parameters and state."""
    return 3 * bytes_of(params) + 2 * bytes_of(state)


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


def in_torch(optimizer: torch.optim.Optimizer, **arguments: Any) -> Contestant:
    def step() -> None:
        optimizer.step(**arguments)
        if HAS_GPU:
            torch.cuda.synchronize()

    step()
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state = [x for kept in optimizer.state.values() for x in kept.values()]
    return Contestant(step, traffic(params, state))


def in_medium(slow: Contestant) -> Contestant:
    """The same, products in bfloat16 allowed."""

    def step() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        slow.step()
        torch.set_float32_matmul_precision(before)

    return Contestant(step, slow.traffic)


def in_optax(optimizer: Any, model: nn.Module) -> Contestant:
    """A compiled step on the same shapes, parameters and state donated."""
    import jax
    import jax.numpy as jnp
    import optax

    named = {name: jnp.asarray(p.detach().cpu()) for name, p in model.named_parameters()}
    grads = {name: 1e-3 * jnp.cos(jnp.arange(p.size)).reshape(p.shape)
             for name, p in named.items()}  # fmt: skip
    held = [named, jax.jit(optimizer.init)(named)]

    def update(params, state, grads):
        updates, state = optimizer.update(grads, state, params, value=1.0)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))

    def step() -> None:
        held[:] = jax.block_until_ready(compiled(*held, grads))

    step()
    size = 3 * sum(p.nbytes for p in named.values())
    return Contestant(step, size + 2 * sum(x.nbytes for x in jax.tree.leaves(held[1])))


def pylo(folder: Path, model: nn.Module) -> Contestant:
    """PyLO's plain optimizer, with random weights: its hub is not asked."""

    class Mixin:
        def __init_subclass__(cls, **_: Any) -> None:
            pass

    for name in ("huggingface_hub", "mup", "mup.optim"):
        module = types.ModuleType(name)
        module.__getattr__ = lambda _: Mixin  # type: ignore[method-assign]
        module.__path__ = []
        sys.modules[name] = module
    sys.path.insert(0, str(folder))
    from pylo.optim.AdafacLO_naive import AdafacLO_naive, MetaMLP

    MetaMLP.from_pretrained = classmethod(lambda cls, _: cls(39, 32, 1).to(DEVICE))
    return in_torch(AdafacLO_naive(list(model.parameters())))


def contestants(args: argparse.Namespace, folder: Path) -> dict[str, Contestant]:
    """By name; AdamW, and Muon where all parameters are matrices, first."""
    from lopt.torch import LearnedOptimizer

    def model(**how: Any) -> nn.Module:
        made = MODELS[args.model](**how).to(DEVICE)
        for p in made.parameters():
            p.grad = 1e-3 * torch.randn_like(p)
        return made

    def learned(name: str, options: dict[str, Any], **how: Any) -> Contestant:
        file = written(name, options, folder)
        return in_torch(LearnedOptimizer(model(**how), file, num_steps=10_000), loss=1.0)

    kind = {"fused": True} if HAS_GPU else {"foreach": True}
    found = {"AdamW": in_torch(torch.optim.AdamW(model().parameters(), **kind))}
    bare = {"biases": args.model != "mlp"}
    if args.model == "mlp":
        found["Muon"] = in_torch(torch.optim.Muon(model(**bare).parameters()))
    for rule in args.rules:
        found[rule] = learned(rule, {}, **(bare if rule == "layerwise" else {}))
        if rule == "layerwise":
            found["layerwise: adam"] = learned(rule, {"bases": ("adam",)})
            found["layerwise: medium"] = in_medium(learned(rule, {}, **bare))
    if args.pylo:
        found["PyLO"] = pylo(args.pylo, model())
    return found | (compiled(args.rules, model(), folder) if args.optax else {})


def compiled(rules: list[str], model: nn.Module, folder: Path) -> dict[str, Contestant]:
    """The same in jax, on its default device."""
    import optax

    import lopt

    adamw = optax.with_extra_args_support(optax.adamw(1e-3))
    found = {"optax: AdamW": in_optax(adamw, model)}
    for rule in rules:
        optimizer = lopt.load(written(rule, {}, folder), num_steps=10_000)
        found[f"optax: {rule}"] = in_optax(optimizer, model)
    return found


def seconds(contest: dict[str, Contestant], rounds: int) -> dict[str, list[float]]:
    """Of each optimizer's steps; all take turns, and so does a copy of 256 MiB."""
    buffer = torch.empty(2**26, device=DEVICE)
    copy = torch.empty_like(buffer)

    def copied() -> None:
        copy.copy_(buffer)
        if HAS_GPU:
            torch.cuda.synchronize()

    steps = {"copy": copied, **{name: c.step for name, c in contest.items()}}
    found: dict[str, list[float]] = {name: [] for name in steps}
    copied()
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            found[name].append(time.perf_counter() - start)
    return found


def transient_bytes(step: Callable[[], Any]) -> int:
    """Allocated by torch at most during a step, beyond what was there before."""
    if HAS_GPU:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
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


def measured(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        contest = contestants(args, Path(folder))
        times = seconds(contest, args.rounds)
    copied = times.pop("copy")
    largest = max(p.numel() for p in MODELS[args.model]().parameters())

    def ratio(own: list[float], other: Iterable[float]) -> float:
        return round(statistics.median(a / b for a, b in zip(own, other, strict=True)), 2)

    found = {}
    for name, own in times.items():
        is_jax = name.startswith("optax: ")
        floor = [contest[name].traffic / 2**29 * x for x in copied]
        found[name] = {
            "milliseconds": round(1e3 * statistics.median(own), 2),
            "of_adamw": ratio(own, times["optax: AdamW" if is_jax else "AdamW"]),
            "of_floor": ratio(own, floor),
        }
        if "Muon" in times and not is_jax:
            found[name]["of_muon"] = ratio(own, times["Muon"])
        if not is_jax:
            transient = transient_bytes(contest[name].step) / largest
            found[name]["transient_bytes_per_element_of_largest"] = round(transient, 1)
    if args.pylo and "adafac_mlp" in times:
        found["PyLO"]["of_adafac_mlp"] = ratio(times["PyLO"], times["adafac_mlp"])
    return found


def main() -> None:
    from lopt.torch.rules import RULES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rules", nargs="*", default=["layerwise", "adafac_mlp", "celo2"])
    parser.add_argument("--model", choices=MODELS, default="mlp")
    parser.add_argument("--optax", action="store_true", help="the same in jax, too")
    parser.add_argument("--pylo", type=Path, metavar="FOLDER", help="a checkout of PyLO")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/export.json"))
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    if unknown := set(args.rules) - set(RULES):
        parser.error(f"no rules of these names: {', '.join(sorted(unknown))}")
    results = measured(args)
    given = ["PYLO" if part == str(args.pylo) else part for part in sys.argv[1:]]
    content = {
        "command": " ".join(["python scripts/bench_export.py", *given]),
        "machine": torch.cuda.get_device_name() if HAS_GPU else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in MODELS[args.model]().parameters()),
        "load_average": os.getloadavg()[0],
        "optimizers": results,
    }
    args.out.write_text(json.dumps(content, indent=1) + "\n")
    for name, figures in results.items():
        print(name, *(f"{key} {value}" for key, value in figures.items()), sep="  ")


if __name__ == "__main__":
    main()
