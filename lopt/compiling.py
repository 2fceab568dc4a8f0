"""How programs are compiled: on a CPU, quickly."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

CPU_OPTIONS = {"xla_backend_optimization_level": "1"}
"""Half the time to compile; the programs, mostly matrix products, are as fast."""
SMALL_CPU_OPTIONS = {"xla_backend_optimization_level": "0"}
"""Another third less, for programs that run in no time, or once."""


def compile_lowered(lowered: jax.stages.Lowered, *, small: bool = False) -> Any:
    """The compiled program, for the devices that it was lowered for.

    Args:
      lowered: what to compile.
      small: whether compiling it takes longer than all its runs.
    """
    options = SMALL_CPU_OPTIONS if small else CPU_OPTIONS
    on_cpu = jax.default_backend() == "cpu"
    return lowered.compile(compiler_options=options if on_cpu else None)


def mapped(function: Callable, in_axes: Sequence[int | None], count: int) -> Callable:
    """`vmap` over leading axes of size `count`; of size 1, without it.

    That takes a fifth less to trace and to compile.

    Args:
      function: of as many arguments as there are `in_axes`.
      in_axes: 0 or None for each argument.
      count: the size of the axes.
    """
    if count > 1:
        return jax.vmap(function, in_axes=tuple(in_axes))

    def alone(*args):
        pairs = zip(args, in_axes, strict=True)
        first = [x if a is None else jax.tree.map(lambda y: y[0], x) for x, a in pairs]
        return jax.tree.map(lambda x: x[None], function(*first))

    return alone
