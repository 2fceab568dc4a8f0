"""`layerwise` in torch makes the updates of the one in jax."""

import inspect

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import jax  # noqa: E402
import torch_recorded as recorded  # noqa: E402

from lopt import checkpoint  # noqa: E402
from lopt.errors import CheckpointError  # noqa: E402
from lopt.optimizers import OPTIMIZERS, stored  # noqa: E402
from lopt.torch.bases import orthogonalize  # noqa: E402
from lopt.torch.rules import RULES  # noqa: E402
from lopt.torch.stored import rounded  # noqa: E402

torch.set_num_threads(1)

OPTIONS = {
    "bases": ("muon", "adam", "sgd", "lion", "adabelief", "shampoo"),
    "momenta": (0.5, 0.9, 0.99),
    "prior_blend": (0.1, 0.3, 0.3, 0.3),
    "prior_logits": {},
    "decay_gain": 0.3,
}


@pytest.mark.parametrize("num_steps", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_the_released_file_makes_the_updates_of_jax(num_steps):
    found = checkpoint.read("layerwise")
    theta = jax.tree.map(np.asarray, found.theta)
    difference = recorded.largest_difference(
        "layerwise", theta, found.header.options, num_steps=num_steps
    )
    assert difference < 1e-5


@pytest.mark.parametrize("num_steps", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_all_bases_make_the_updates_of_jax(num_steps):
    theta = recorded.random_theta("layerwise", OPTIONS)
    difference = recorded.largest_difference(
        "layerwise", theta, OPTIONS, num_steps=num_steps
    )
    assert difference < 1e-5


def test_without_specs_and_with_embeddings_the_updates_are_those_of_jax():
    options = {"embedding_size": 3, "num_tensors": len(recorded.SHAPES)}
    theta = recorded.random_theta("layerwise", options)
    difference = recorded.largest_difference(
        "layerwise", theta, options, num_steps=5, with_specs=False
    )
    assert difference < 1e-5


@pytest.mark.parametrize("name", RULES)
def test_options_are_those_of_jax(name):
    def options(factory, left_out):
        parameters = inspect.signature(factory).parameters.values()
        return {p.name: p.default for p in parameters if p.name not in left_out}

    expected = options(OPTIMIZERS[name], ())
    assert options(RULES[name], ("theta", "num_steps")) == expected


def test_bfloat16_is_rounded_as_in_jax():
    x = np.random.default_rng(0).normal(size=500).astype(np.float32)
    x[:3] = np.inf, np.nan, 0.0
    for step in (0, 1, 1000, 123456789):
        want = stored.rounded(jax.numpy.asarray(x), jax.numpy.int32(step))
        got = rounded(torch.tensor(x), step).float().numpy()
        np.testing.assert_array_equal(got, np.asarray(want))
    assert len(np.unique(rounded(torch.full((64,), 1.003), 5).float())) <= 2


def test_state_in_bfloat16_takes_half_the_memory():
    theta = recorded.nested(recorded.random_theta("layerwise", {}), torch.tensor)
    rule = RULES["layerwise"](theta, num_steps=5, state_dtype="bfloat16")
    p, spec = torch.ones(8, 6), recorded.spec_in_torch(recorded.specs()["b_kernel"])
    state = rule.init([p], [spec])
    for _ in range(2):
        rule.update([p], state, [p], torch.tensor(1.0))
    kept = state.per_param[0]
    assert kept["momentum_0"].dtype == torch.bfloat16
    assert kept["1_adam_second_moment"].dtype == torch.bfloat16
    torch.testing.assert_close(kept["momentum_0"].float(), 0.19 * p, rtol=0.01, atol=0)


@pytest.mark.slow
def test_state_in_bfloat16_makes_about_the_updates_of_jax():
    options = {"bases": ("adam",), "state_dtype": "bfloat16"}
    theta = recorded.random_theta("layerwise", options)
    difference = recorded.largest_difference("layerwise", theta, options, num_steps=5)
    assert difference < 0.02


def test_products_are_in_bfloat16_only_where_torch_is_told_so():
    x = torch.randn(2, 12, 20, generator=torch.Generator().manual_seed(0))
    exact = orthogonalize(x)
    torch.set_float32_matmul_precision("medium")
    try:
        coarse = orthogonalize(x)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert coarse.dtype == exact.dtype == torch.float32
    assert not torch.equal(exact, coarse)
    torch.testing.assert_close(exact, coarse, rtol=0, atol=0.05)
    values = torch.linalg.svdvals(exact)
    assert 0.6 < values.min() < values.max() < 1.3


@pytest.mark.parametrize(
    ("options", "changed", "message"),
    [
        ({}, {"bases": ("muon", "nobody")}, "base in torch `nobody`"),
        ({}, {"momenta": (0.9, 0.99), "prior_blend": (1, 1, 1)}, "`network/b1` must be"),
        ({}, {"hidden_sizes": ()}, "`network/b0` must be"),
        ({}, {"embedding_size": 2, "num_tensors": 9}, "lacks `embedding`"),
    ],
)
def test_weights_of_other_options_are_refused(options, changed, message):
    theta = recorded.nested(recorded.random_theta("layerwise", options), torch.tensor)
    with pytest.raises(CheckpointError, match=message):
        RULES["layerwise"](theta, num_steps=10, **options, **changed)
