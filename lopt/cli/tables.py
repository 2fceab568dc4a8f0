"""What a suite or an optimizer costs, in tables: `lopt show` prints them."""

from typing import Any

from lopt.cli import console


def sizes(tasks: list[dict[str, Any]]) -> None:
    """One row a task, of the fields of `lopt.costs.TaskSize`."""
    columns = ("task", "program", "parameters", "tensors", "data", "gradient")
    rows = [
        (
            task["name"],
            task["program"],
            f"{task['parameters']:,}",
            task["tensors"],
            _scaled(task["data_bytes"], "B"),
            _scaled(task["flops"], "FLOP"),
        )
        for task in tasks
    ]
    console.table(columns, rows)
    console.data(
        "gradient: of one minibatch, by jax's cost analysis; what the optimizer does and "
        "readings of the meta-loss come on top"
    )


def cost(found: dict[str, Any]) -> None:
    """What meta-training takes, of the fields of `lopt.costs.TrainingCost`."""
    seconds, inner_steps = found["seconds"], found["inner_steps"]
    console.data(
        f"meta-training on this machine: about {_duration(seconds)} for "
        f"{found['outer_steps']:,} outer steps, {inner_steps:,} inner steps at "
        f"{inner_steps / seconds:,.0f} a second"
    )
    console.data(
        f"before that, {_duration(found['compile_seconds'])} to compile "
        f"{found['programs']} programs, done now: the cache keeps them for the run"
    )
    console.data(
        "measured: each program ran for a moment, with the machine as busy as it is; "
        "checkpoints and selections come on top"
    )
    by_task = sorted(found["task_seconds"].items(), key=lambda item: -item[1])
    rows = [(name, _duration(s), f"{s / seconds:.0%}") for name, s in by_task]
    console.table(("task", "time", "share"), rows)


def update_cost(found: dict[str, Any]) -> None:
    """What an optimizer takes, of the fields of `lopt.costs.UpdateCost`."""
    console.table(
        ("for each parameter", "value"),
        [
            ("optimizer's state", f"{found['state_bytes']:.3g} B"),
            ("an update", _scaled(found["flops"], "FLOP")),
        ],
    )
    console.data(
        f"both of {found['network']}, {found['parameters']:,} parameters in float32; "
        "updates by jax's cost analysis, transcendental functions not counted"
    )


def _scaled(number: float, unit: str) -> str:
    """Three digits and a prefix of thousands."""
    prefixes, power = ("", "k", "M", "G", "T", "P"), 0
    while number >= 999.5 and power < len(prefixes) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.3g} {prefixes[power]}{unit}"


def _duration(seconds: float) -> str:
    """In the unit that people would use."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"
