"""How programs are compiled: on a CPU, quickly."""

from typing import Any

import jax

CPU_OPTIONS: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}
"""Half the time to compile; the programs, mostly matrix products, are as fast."""


def compile_lowered(lowered: jax.stages.Lowered) -> Any:
    """The compiled program, for the devices that it was lowered for."""
    on_cpu = jax.default_backend() == "cpu"
    return lowered.compile(compiler_options=CPU_OPTIONS if on_cpu else None)
