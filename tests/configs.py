"""A suite as text, and what is said of a mistake in one."""

import pytest

from lopt.config import load_suite
from lopt.errors import ConfigError

SUITE = """
description = "two small networks"
outer_steps = 40
[optimizer]
name = "layerwise"
hidden_sizes = [8, 8]
[estimator]
name = "pes"
num_pairs = 4
sigma = 1
[unroll]
length = 20
[outer_optimizer]
learning_rate = 1e-2
[[tasks]]
family = "mlp"
width = 32
[[tasks]]
family = "mlp"
name = "wide"
weight = 2
options_of = {nested = [1, "two", true]}
"""

SUITE_TASK = '[[tasks]]\nfamily = "mlp"\n'


def write_suite(folder):
    path = folder / "suite.toml"
    path.write_text(SUITE)
    return path


def error_of(suite, *overrides) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_suite(suite, overrides)
    assert "\n" not in caught.value.message
    return caught.value
