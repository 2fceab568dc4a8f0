"""The folder of a meta-training run: what lies where, and how it is read and written.

    config.json     the resolved configuration; this file makes a folder a run
    run.json        versions, hashes of the data, git commit, seed, command, sessions;
                    written before it
    metrics.jsonl   one object per outer step
    selection.jsonl one object per selection, where the run has any
    checkpoints/N   snapshots (snapshots.py)
    evaluation/     results of `lopt evaluate`, where they were written here

Everything but the two `.jsonl`, which only grow, is replaced atomically.
"""

import importlib.metadata
import json
import math
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lopt
from lopt.config import RunConfig, from_dict, to_dict
from lopt.errors import CheckpointError, ConfigError
from lopt.files.fileformat import disk_error, write_atomically

CONFIG, RECORD = "config.json", "run.json"
METRICS, SELECTION = "metrics.jsonl", "selection.jsonl"
CHECKPOINTS, RESULTS = "checkpoints", "evaluation/results.json"


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's."""
    return (folder / CONFIG).is_file()


def make_folder(folder: Path) -> None:
    """Makes the folder, which is not a run yet; `CheckpointError` where it may not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from error


def create(folder: Path, config: RunConfig, record: Mapping[str, Any]) -> None:
    """Makes the folder a run with this configuration."""
    _write_json(folder / RECORD, record)
    _write_json(folder / CONFIG, to_dict(config))


def add_session(folder: Path, session: Mapping[str, Any]) -> list[str]:
    """Notes in run.json that another process continues the run.

    Returns:
      What it has otherwise than the process before it: "versions", "devices", "data",
      "optimizer_hash".
    """
    record = read_json(folder / RECORD)
    before = record["sessions"][-1]
    record["sessions"].append(session)
    _write_json(folder / RECORD, record)
    said = ("versions", "devices", "data", "optimizer_hash")
    said = [key for key in said if key in before]
    return [key for key in said if before[key] != session[key]]


def read_config(folder: Path) -> RunConfig:
    """The configuration of a run.

    Raises:
      CheckpointError: the folder is no run, or its configuration is damaged.
    """
    if not is_run(folder):
        raise CheckpointError(
            f"`{folder}` is not a run: it has no `{CONFIG}`",
            hint="a run is the folder given to `lopt meta-train --out`",
        )
    try:
        return from_dict(read_json(folder / CONFIG))
    except ConfigError as error:
        raise CheckpointError(
            f"`{folder / CONFIG}` is not a configuration: {error.message}",
            hint=error.hint,
        ) from error


def differing_key(old: RunConfig, new: RunConfig) -> tuple[str, Any, Any] | None:
    """The first dotted key whose values differ, and these; None where all agree."""
    before, after = _dotted(to_dict(old)), _dotted(to_dict(new))
    for key in before | after:
        if before.get(key) != after.get(key):
            return key, before.get(key), after.get(key)
    return None


def _dotted(plain: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(plain, Mapping):
        items = plain.items()
    elif isinstance(plain, list | tuple):
        items = ((str(i), value) for i, value in enumerate(plain))
    else:
        return {prefix.rstrip("."): plain}
    flat = {}
    for key, value in items:
        flat |= _dotted(value, f"{prefix}{key}.")
    return flat


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; `CheckpointError` where the file is absent or is not one."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CheckpointError(f"cannot read `{path}`: {reason}") from error
    except ValueError as error:
        raise CheckpointError(f"`{path}` is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"`{path}` is not a JSON object")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def versions() -> dict[str, str]:
    """Versions of everything that decides what a run's numbers are."""
    packages = ("jax", "jaxlib", "optax", "orbax-checkpoint", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"lopt": lopt.__version__, "python": platform.python_version(), **found}


def git_commit() -> str | None:
    """The commit of the source checkout that lopt runs from, `-dirty` where changed."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=checkout, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None  # git is not there, which is no reason not to train
    return result.stdout.strip() or None


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl; a last one cut by a kill is left out."""
    return _read_lines(folder / METRICS)


def read_selection(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of selection.jsonl, likewise."""
    return _read_lines(folder / SELECTION)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines]


def truncate(folder: Path, step: int) -> None:
    """Drops what was logged after `step`, before the run continues from there."""
    for name in (METRICS, SELECTION):
        path = folder / name
        if name == METRICS or path.exists():
            lines = [line for line in _read_lines(path) if line["step"] <= step]
            write_atomically(path, "".join(map(_line, lines)).encode())


def append_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Adds one line to metrics.jsonl; a number that is not finite becomes null."""
    _append(folder / METRICS, metrics)


def append_selection(folder: Path, selection: Mapping[str, Any]) -> None:
    """Adds one line to selection.jsonl, likewise."""
    _append(folder / SELECTION, selection)


def _append(path: Path, content: Mapping[str, Any]) -> None:
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(_line(content))
    except OSError as error:
        raise disk_error(path, error) from error


def _line(metrics: Mapping[str, Any]) -> str:
    return json.dumps(_finite(metrics), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
