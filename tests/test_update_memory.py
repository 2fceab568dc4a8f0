"""What a deployed update has in memory, beside what it is given and what it keeps."""

import jax
import jax.numpy as jnp
import optax
import pytest
from bench_update import prepared

from lopt import mup
from lopt.optimizers import OPTIMIZERS

SIDE = 300
CASES = {
    "layerwise": ({}, 20),
    "layerwise, adam alone": ({"bases": ("adam",)}, 3),
    "adafac_mlp": ({}, 20),
    "mup_adafac": ({}, 64),
    "celo2": ({"orthogonalize": False}, 20),
    "rnn_mlp": ({}, 75),
    "velo": ({}, 32),
}
"""Options, and the most bytes for each element of the tensor."""


@pytest.mark.parametrize("case", CASES)
def test_no_more_is_in_memory_than_is_needed(case):
    options, most = CASES[case]
    lopt = OPTIMIZERS[case.partition(",")[0]](**options)
    params = {"w": jnp.ones((SIDE, SIDE))}
    specs = mup.infer_specs(params)
    optimizer = lopt.opt_fn(lopt.init(jax.random.key(0)), specs=specs, num_steps=9)
    step = prepared(optax.with_extra_args_support(optimizer), params, params)
    found = step["transient"] / SIDE**2
    assert 0 < found < most, found
