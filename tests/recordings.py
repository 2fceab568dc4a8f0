"""Recordings of published optimizers: where they are, how to read and compare them.

The recordings are numbers that came out of other implementations; their folder is
named by LOPT_GOLDEN (default `../shared/golden` beside the repository). What they
contain, the mathematics and the tolerances are in the README there.
"""

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLDER = Path(
    os.environ.get("LOPT_GOLDEN")
    or Path(__file__).parents[1] / ".." / "shared" / "golden"
)
FILES = sorted(FOLDER.glob("*.npz"))


@dataclass(frozen=True)
class Recording:
    """One file: its arrays by key, and its configuration."""

    arrays: dict[str, np.ndarray]
    config: dict

    @property
    def constants(self) -> dict:
        return self.config["hyperparameters"]

    @property
    def names(self) -> list[str]:
        return self.config["leaf_order"]

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """The arrays whose keys start with `prefix/`, by the rest of the key."""
        prefix += "/"
        found = {k: v for k, v in self.arrays.items() if k.startswith(prefix)}
        return {k.removeprefix(prefix): v for k, v in found.items()}


@functools.cache
def load(path: Path) -> Recording:
    with np.load(path, allow_pickle=False) as file:
        config = json.loads(str(file["config"]))
        arrays = {key: file[key] for key in file.files if key != "config"}
    return Recording(arrays, config)


def displacement_error(ours, recorded, start) -> float:
    """The README's E; infinite where our parameters are not finite."""
    ours, recorded, start = (np.asarray(x, np.float64) for x in (ours, recorded, start))
    distance = np.abs(recorded - start).max(initial=0.0)
    error = np.abs(ours - recorded).max(initial=0.0)
    error -= 2e-7 * np.abs(recorded).max(initial=0.0)
    if np.isnan(error):
        return np.inf
    return max(error, 0.0) / distance if distance else (np.inf if error > 0 else 0.0)


def relative_error(ours, recorded) -> float:
    """The largest difference, relative to the largest entry."""
    ours, recorded = np.asarray(ours, np.float64), np.asarray(recorded, np.float64)
    assert ours.shape == recorded.shape
    error = np.abs(ours - recorded).max(initial=0.0)
    if np.isnan(error):
        return np.inf
    return error / np.abs(recorded).max() if error else 0.0
