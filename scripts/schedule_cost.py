"""What a learned `layerwise` loses where its policy is frozen into a schedule.

    python scripts/schedule_cost.py layerwise

`lopt export FILE --format schedule` leaves out the network: by place in the run and kind
of tensor, decisions are what they were on average over the training tasks. On every task
of the suites, paired over seeds, its test loss at T is divided by that of the optimizer
itself: above 1, adapting is missed. Nothing is tuned, unlike in `lopt evaluate FILE
--baselines schedule`. Medians over tasks and their 80 % intervals go into
benchmarks/schedule.json. Three minutes of CPU time for `--suites digits --seeds 8`.
"""

import argparse
import json
import sys
from pathlib import Path

from loss_ratios import ratios

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    options = parse()
    from lopt.cli import ending

    sys.exit(ending(lambda: run(options)))


def run(options: argparse.Namespace) -> None:
    """Freezes the policy and compares, suite by suite."""
    from lopt.cli.process import set_up

    set_up()
    from bench_work import surroundings

    from lopt.checkpoint import read
    from lopt.cli.progress import Bar
    from lopt.config import load_suite
    from lopt.evaluation.comparison import evaluate
    from lopt.export.schedule import frozen
    from lopt.suites import build_tasks

    whole = read(options.optimizer)
    schedule = frozen(whole, notify=lambda text, units: print(text, file=sys.stderr))
    suites = {}
    for suite in options.suites:
        with Bar() as bar:
            results = evaluate(
                whole.lopt,
                whole.theta,
                build_tasks(load_suite(suite)),
                name="layerwise",
                baselines=[("schedule", schedule.lopt, schedule.theta)],
                seeds=options.seeds,
                seed=options.seed,
                budgets=[1.0],
                progress=bar.update,
            )
        suites[suite] = ratios(results)["schedule"]
    record = {
        "command": " ".join(["python", "scripts/schedule_cost.py", *sys.argv[1:]]),
        **surroundings(),
        "seeds": options.seeds,
        "schedule_over_layerwise": suites,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    for suite, row in suites.items():
        low, high = row["interval80"]
        print(f"{row['median']:6.3f} ({low:.3f} to {high:.3f})  {suite}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("optimizer", help="a file, a run, or a released name")
    parser.add_argument("--suites", nargs="+", default=["digits", "digits-heldout"])
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/schedule.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
