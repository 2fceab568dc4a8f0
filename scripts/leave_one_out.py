"""What a learned `layerwise` has come to rely on: its parts, left out one at a time.

    python scripts/leave_one_out.py checkpoints/layerwise.safetensors

A part is a group of inputs of the policy (set to zero, the middle of their range), a base
or a share of the blend (never chosen), or one of the things that are learned (as in the
prior). Each is left out of theta as it is: nothing is meta-trained again, so that what
the others could have made up for counts against it. On every task of the suite, paired
over seeds, the test loss at T is divided by that of the whole optimizer: above 1, the
part is missed. Medians over tasks and their 80 % intervals go into
benchmarks/leave_one_out.json. About 3 minutes on 2 cores.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from loss_ratios import contest, ratios

ROOT = Path(__file__).resolve().parent.parent
NEVER = -1e6
"""A logit that leaves nothing."""


def main() -> None:
    options = parse()
    from lopt.cli import ending

    sys.exit(ending(lambda: run(options)))


def run(options: argparse.Namespace) -> None:
    """Compares the whole with every theta that lacks a part."""
    from lopt.cli.process import set_up

    set_up()
    from bench_work import surroundings

    from lopt.checkpoint import read

    whole = read(options.optimizer)
    thetas = {"whole": whole.theta, **without(whole.theta, whole.header.options)}
    contestants = {name: (whole.lopt, theta) for name, theta in thetas.items()}
    results = contest(contestants, options.suite, seeds=options.seeds, seed=options.seed)
    found = sorted(ratios(results).items(), key=lambda item: -item[1]["median"])
    record = {
        "command": " ".join(["python", "scripts/leave_one_out.py", *sys.argv[1:]]),
        **surroundings(),
        "suite": options.suite,
        "seeds": options.seeds,
        "without": dict(found),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    for name, row in found:
        low, high = row["interval80"]
        print(f"{row['median']:6.3f} ({low:.3f} to {high:.3f})  without {name}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("optimizer", type=Path, help="an exported file or a run")
    parser.add_argument("--suite", default="digits")
    parser.add_argument("--seeds", type=int, default=48)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/leave_one_out.json"
    )
    return parser.parse_args()


def without(theta, options: dict) -> dict:
    """Theta without each of its parts, by the part's name."""
    from lopt.optimizers import inputs

    network = {name: np.asarray(leaf) for name, leaf in theta["network"].items()}
    last = len(network) // 2 - 1
    bases, momenta = options["bases"], options["momenta"]
    outputs = {f"the base {name}": [k] for k, name in enumerate(bases)}
    shares = ["the gradient's share", *(f"the momentum of {beta}" for beta in momenta)]
    outputs |= {name: [len(bases) + i] for i, name in enumerate(shares)}
    blend_end = len(bases) + len(shares)
    learned = {
        "a learned mixture": range(len(bases)),
        "a learned blend": range(len(bases), blend_end),
        "a learned step size": [blend_end],
        "a learned decay": [blend_end + 1],
    }
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(inputs.names(momenta)):
        groups.setdefault(name.partition(":")[0], []).append(i)

    def changed(leaf: str, index, value: float):
        edited = {name: x.copy() for name, x in network.items()}
        for name in (leaf,) if isinstance(leaf, str) else leaf:
            edited[name][index] = value
        return {**theta, "network": edited}

    every = slice(None)
    return {
        **{
            f"the inputs: {name}": changed("w0", (list(rows), every), 0.0)
            for name, rows in groups.items()
        },
        **{
            name: changed(f"b{last}", columns, NEVER) for name, columns in outputs.items()
        },
        **{
            name: changed((f"w{last}", f"b{last}"), (..., list(columns)), 0.0)
            for name, columns in learned.items()
        },
        "anything learned": changed((f"w{last}", f"b{last}"), (...,), 0.0),
    }


if __name__ == "__main__":
    main()
