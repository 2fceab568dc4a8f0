"""What a deployed update has in memory, beside what it is given and what it keeps."""

import jax
import jax.numpy as jnp
import optax
import pytest
from bench_update import prepared

from lopt import mup
from lopt.optimizers import OPTIMIZERS, pieces

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
    found = transient(OPTIMIZERS[case.partition(",")[0]](**options), 1) / SIDE**2
    assert 0 < found < most, found


@pytest.mark.parametrize("name", ["adafac_mlp", "celo2", "mlp"])
def test_outputs_of_large_tensors_are_not_in_memory_at_once(name, monkeypatch):
    """Five tensors take less than the outputs of three."""
    monkeypatch.setattr(pieces, "PIECE", 3 * SIDE)
    lopt = OPTIMIZERS[name](**CASES.get(name, ({},))[0])
    assert transient(lopt, 5) < 3 * 4 * SIDE**2


def transient(lopt, num_tensors):
    """Bytes that an update of so many tensors of SIDE times SIDE takes for a while."""
    params = {f"w{i}": jnp.ones((SIDE, SIDE)) for i in range(num_tensors)}
    specs = mup.infer_specs(params)
    optimizer = lopt.opt_fn(lopt.init(jax.random.key(0)), specs=specs, num_steps=9)
    step = prepared(optax.with_extra_args_support(optimizer), params, params)
    return step["transient"]
