"""What a process of lopt sets up in jax: devices, and where programs are kept."""

import os

import pytest
from processes import lopt_process


@pytest.mark.parametrize(
    ("argument", "environment", "devices"),
    [
        ("3", {}, 3),
        ("3", {"JAX_NUM_CPU_DEVICES": "2"}, 3),
        ("None", {"JAX_NUM_CPU_DEVICES": "2"}, 2),
        ("None", {}, min(os.cpu_count(), 8)),
    ],
)
def test_the_process_is_set_up_as_the_user_says(argument, environment, devices, tmp_path):
    start = f"""
import jax
from lopt.cli.process import set_up
set_up({argument})
print(len(jax.devices("cpu")), jax.config.jax_compilation_cache_dir)
"""
    inherited = {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": "/c", **environment}
    result = lopt_process(cwd=tmp_path, start=start, **inherited)
    assert result.stdout.split() == [str(devices), "/c/lopt/xla"], result.stderr


def test_a_cache_that_the_user_chose_is_kept(tmp_path):
    start = """
import jax
from lopt.cli.process import set_up
set_up()
print(jax.config.jax_compilation_cache_dir)
"""
    chosen = str(tmp_path / "mine")
    result = lopt_process(cwd=tmp_path, start=start, JAX_COMPILATION_CACHE_DIR=chosen)
    assert result.stdout.strip() == chosen
