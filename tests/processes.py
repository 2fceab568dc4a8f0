"""The command line as a process."""

import os
import subprocess
import sys
from pathlib import Path

import lopt
import lopt.cli
import lopt.config

ROOT = Path(lopt.__file__).parents[1]
START = "from lopt.cli import main; main()"
WITHOUT_JAX = f"""
import sys
class Refuse:
    def find_spec(name, path, target=None):
        assert name not in ("jax", "numpy", "optax"), name
sys.meta_path.insert(0, Refuse)
{START}
"""


def lopt_process(*arguments, cwd, start=START, **environment):
    """A finished process of the command line."""
    return subprocess.run(
        [sys.executable, "-c", start, *map(str, arguments)],
        cwd=cwd,
        env=process_environment(**environment),
        capture_output=True,
        text=True,
        timeout=300,
    )


def process_environment(**extra):
    """Ours with these; who says where the user's caches are gets lopt's own there."""
    dropped = {"LOPT_DEBUG"}
    if "XDG_CACHE_HOME" in extra:
        dropped.add("JAX_COMPILATION_CACHE_DIR")
    inherited = {k: v for k, v in os.environ.items() if k not in dropped}
    return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **extra}
