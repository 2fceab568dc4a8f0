"""What a process of lopt sets in jax before it computes; imported after all checks.

What the user has set, by jax's own environment variables, stays.
"""

import gc
import os

from lopt.files.cache import cache_folder

_MAX_DEVICES = 8  # particles come in powers of two, and more devices than that rest


def set_up(devices: int | None = None) -> None:
    """Spreads work over the cores, and keeps compiled programs from run to run.

    Args:
      devices: how many devices the CPU counts as; None: one per core, at most 8, or
        what `JAX_NUM_CPU_DEVICES` or `XLA_FLAGS` say.
    """
    import jax

    flags = os.environ.get("XLA_FLAGS", "")
    told = "JAX_NUM_CPU_DEVICES" in os.environ or "device_count" in flags
    if devices is not None or not told:
        count = devices or min(os.cpu_count() or 1, _MAX_DEVICES)
        jax.config.update("jax_num_cpu_devices", count)
    for name, value in (
        ("jax_compilation_cache_dir", str(cache_folder("xla"))),
        ("jax_persistent_cache_min_compile_time_secs", 0),
        ("jax_persistent_cache_min_entry_size_bytes", -1),
    ):
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    # What is imported stays: going through it in every garbage collection would be a
    # fifth of the time that tracing takes.
    gc.freeze()
