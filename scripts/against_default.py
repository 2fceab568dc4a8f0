"""Is anything lost beside an AdamW that nobody tuned?

    python scripts/against_default.py checkpoints/layerwise-small.safetensors
    python scripts/against_default.py FILES --suite digits-heldout

Learned optimizers, which nobody tunes, on every task of a suite beside optax's AdamW at
its default rate of 1e-3 and its default decay, in runs of full length, paired over seeds:
the test loss over AdamW's. Required is 1.1 at most on every task. Writes
benchmarks/against_default.json. About 4 minutes on 2 cores.
"""

import argparse
import json
import sys
from pathlib import Path

from bench_digits import read_all
from loss_ratios import contest, ratios

ROOT = Path(__file__).resolve().parent.parent
RATE = 1e-3
REQUIRED = 1.1


def main() -> None:
    options = parse()
    from lopt.cli import ending

    sys.exit(ending(lambda: run(options)))


def run(options: argparse.Namespace) -> None:
    """Compares all of them with AdamW, and writes what was found."""
    from lopt.cli.process import set_up

    set_up()
    from bench_work import surroundings

    learned = read_all(options.optimizers)
    contestants = {"AdamW": adamw()}
    contestants |= {name: (found.lopt, found.theta) for name, found in learned.items()}
    found = ratios(
        contest(contestants, options.suite, seeds=options.seeds, seed=options.seed)
    )
    record = {
        "command": " ".join(["python", "scripts/against_default.py", *sys.argv[1:]]),
        **surroundings(),
        "suite": options.suite,
        "seeds": options.seeds,
        "over AdamW": found,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    for name, row in found.items():
        worst = max(row["tasks"], key=row["tasks"].__getitem__)
        told = f"median {row['median']:.3f}, worst {row['tasks'][worst]:.3f} on {worst}"
        verdict = "reached" if row["tasks"][worst] <= REQUIRED else "NOT reached"
        print(f"{name}: {told}; {verdict}: at most {REQUIRED}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("optimizers", type=Path, nargs="+", help="exported files or runs")
    parser.add_argument("--suite", default="small-heldout")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/against_default.json"
    )
    return parser.parse_args()


def adamw():
    """Optax's, as an optimizer whose theta is its rate."""
    import jax.numpy as jnp
    import optax

    from lopt.base import LearnedOptimizer

    def opt_fn(theta, *, specs=None, num_steps=None):
        del specs, num_steps
        return optax.with_extra_args_support(optax.adamw(theta["learning_rate"]))

    theta = {"learning_rate": jnp.float32(RATE)}
    return LearnedOptimizer(lambda key: theta, opt_fn), theta


if __name__ == "__main__":
    main()
