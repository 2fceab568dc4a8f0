"""Tables and pictures of what bench_meta_train.py measured."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

Rows = list[dict]
RATE = "inner steps/s"
FLOOR = " (floor)"
WIDTH = 180


def show(part: str, rows: Rows) -> None:
    """Prints the rows of a part."""
    table = Table(title=part, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    columns = [c for c in columns if not c.endswith(FLOOR) or c == f"adam{FLOOR}"]
    for column in columns:
        numeric = all(not isinstance(row.get(column, 0), str) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*[_cell(row.get(column)) for column in columns])
    # A table cut to 80 columns would lose its numbers.
    Console(width=max(Console().width, WIDTH)).print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value < 1000:
        return f"{value:g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def compare(rows: Rows, other: dict) -> None:
    """Adds each rate's ratio to the best rate in another record of that optimizer."""
    best: dict[str, float] = {}
    for row in (row for part in other["parts"].values() for row in part):
        if RATE in row:
            name = row["optimizer"]
            best[name] = max(best.get(name, 0.0), row[RATE])
    for row in rows:
        if RATE in row and row["optimizer"] in best:
            row["times the other's best"] = round(row[RATE] / best[row["optimizer"]], 2)


def plot(record: dict, path: Path) -> None:
    """One panel for each part that has a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = {
        "rates": _rates,
        "particles": _growth("particles"),
        "width": _growth("shape"),
        "memory": _memory,
    }
    parts = {name: rows for name, rows in record["parts"].items() if name in panels}
    if not parts:
        return
    num_rows = (len(parts) + 1) // 2
    figure, axes = plt.subplots(
        num_rows, 2, figsize=(11, 4.2 * num_rows), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[len(parts) :]:
        ax.set_axis_off()
    for ax, (name, rows) in zip(axes.flat, parts.items(), strict=False):
        panels[name](ax, rows)
    machine, version = record["machine"], record["jax"]
    figure.suptitle(f"meta-training on {machine}, jax {version}", fontsize=10)
    figure.savefig(path, dpi=110)


def _rates(ax, rows: Rows) -> None:
    """Bars: estimators, in groups, one color an optimizer; lines: its Adam floor."""
    shape = rows[0]["shape"]
    rows = [row for row in rows if row["shape"] == shape]
    estimators = list(dict.fromkeys(row["estimator"] for row in rows))
    chosen = list(dict.fromkeys(row["optimizer"] for row in rows))
    full = [
        name
        for name in chosen
        if len([row for row in rows if row["optimizer"] == name]) == len(estimators)
    ]
    height = 0.8 / len(full)
    for i, name in enumerate(full):
        found = [row for row in rows if row["optimizer"] == name]
        places = [estimators.index(row["estimator"]) + i * height for row in found]
        ax.barh(places, [row[RATE] for row in found], height, label=name)
    floor = rows[0][f"adam{FLOOR}"]
    ax.axvline(floor, color="gray", linestyle=":", label="Adam (floor)")
    ticks = [i + height * (len(full) - 1) / 2 for i in range(len(estimators))]
    ax.set_yticks(ticks, estimators)
    ax.invert_yaxis()
    ax.set(xlabel=RATE, title=f"{shape}, {rows[0]['particles']} particles")
    ax.legend(fontsize=7)


def _growth(key: str):
    """A panel of rates over a number: the particles, or the width of a shape."""

    def draw(ax, rows: Rows) -> None:
        for i, name in enumerate(dict.fromkeys(row["optimizer"] for row in rows)):
            found = [row for row in rows if row["optimizer"] == name]
            sizes = [int(str(row[key]).rpartition("x")[2]) for row in found]
            ax.loglog(sizes, [row[RATE] for row in found], "o-", label=name)
            if i == 0:
                floor = [row[f"adam{FLOOR}"] for row in found]
                ax.loglog(sizes, floor, ":", color="gray", label="Adam (floor)")
        ax.set_xscale("log", base=2)
        label = "width" if key == "shape" else key
        ax.set(
            xlabel=label, ylabel=RATE, title=f"growth with {label}, K = {found[0]['K']}"
        )
        ax.legend(fontsize=7)

    return draw


def _memory(ax, rows: Rows) -> None:
    """Bytes over the longest run, and over K for what differentiates the run."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        how = row["rematerialize"]
        kind = f"over K, computed anew: {how}" if how else "over the longest run"
        label = f"{row['estimator']} {kind}"
        size = row["K"] if how else row["longest run"]
        lines.setdefault(label, []).append((size, row["program MiB"]))
    for label, points in lines.items():
        ax.loglog(*zip(*points, strict=True), "o-", label=label)
    ax.set(xlabel="steps", ylabel="MiB of the program, each device", title="memory (mlp)")
    ax.legend(fontsize=7)
