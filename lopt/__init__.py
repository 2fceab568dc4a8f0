"""Meta-train, evaluate and export small learned optimizers.

Names are imported when they are first used: `import lopt` does not import jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lopt.base import LearnedOptimizer as LearnedOptimizer
    from lopt.base import ParamSpec as ParamSpec
    from lopt.base import Task as Task
    from lopt.checkpoint import load as load
    from lopt.errors import LoptError as LoptError
    from lopt.evaluation import evaluate as evaluate
    from lopt.mup import param_specs as param_specs
    from lopt.own_task import task_from as task_from
    from lopt.run import meta_train as meta_train

_EXPORTS = {
    "LearnedOptimizer": "lopt.base",
    "LoptError": "lopt.errors",
    "ParamSpec": "lopt.base",
    "Task": "lopt.base",
    "evaluate": "lopt.evaluation",
    "load": "lopt.checkpoint",
    "meta_train": "lopt.run",
    "param_specs": "lopt.mup",
    "task_from": "lopt.own_task",
}

__all__ = [*_EXPORTS, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module `lopt` has no attribute `{name}`")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
