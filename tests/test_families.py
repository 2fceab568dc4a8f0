"""What every family promises."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from family_tools import quick

from lopt.base import SPLITS, ParamSpec
from lopt.families import FAMILIES
from lopt.optimizers import layerwise
from lopt.unroll import inner_step, unroll

VARIANTS = [
    ("mlp", {}),
    ("mlp", {"depth": 0}),
    ("mlp", {"depth": 10, "width": 8}),
    ("mlp", {"normalization": "layer", "activation": "gelu", "width": 48}),
    ("mlp", {"form": "plain", "width": 48, "init": "uniform", "activation": "silu"}),
    ("mlp", {"dataset": "patches", "init": "he", "activation": "tanh"}),
    ("mlp", {"num_examples": 60, "label_noise": 0.4, "input_offset": 1.1}),
    ("convnet", {}),
    ("convnet", {"dataset": "patches", "stride": 1, "depth": 1, "form": "plain"}),
    ("convnet", {"normalization": "layer", "depth": 3, "residual": True}),
    ("convnet", {"depth": 0, "width": 24}),
    ("convnet", {"normalization": "batch", "residual": True}),
    ("mlp", {"normalization": "batch", "form": "plain"}),
    ("regression", {}),
    ("regression", {"normalization": "batch"}),
    ("regression", {"dataset": "linnerud", "width": 48, "depth": 0, "batch_size": 4}),
    ("autoencoder", {}),
    ("autoencoder", {"variational": True, "normalization": "layer", "depth": 2}),
    ("autoencoder", {"variational": True, "normalization": "batch"}),
    ("autoencoder", {"dataset": "diabetes", "depth": 0, "form": "plain", "width": 48}),
    ("quadratic", {"width": 512, "condition": 2.0}),
    ("function", {"width": 512}),
    ("function", {"width": 512, "function": "ackley", "noise": 0.1, "data_seed": 2}),
    ("vit", {}),
    ("vit", {"dataset": "patches", "patch_size": 4, "width": 48, "form": "plain"}),
    ("in_context", {}),
    ("in_context", {"kind": "softmax", "width": 64, "num_heads": 2, "context": 5}),
    ("in_context", {"num_inputs": 1, "width": 16, "form": "plain", "data_seed": 7}),
    ("transformer", {}),
    ("transformer", {"depth": 4, "num_heads": 1, "width": 48, "form": "plain"}),
    ("transformer", {"width": 64, "dataset": "prose", "sequence_length": 5}),
    ("recurrent", {}),
    ("recurrent", {"cell": "lstm", "width": 48, "form": "plain", "depth": 9}),
    ("recurrent", {"cell": "lstm", "width": 64, "dataset": "code", "batch_size": 3}),
]
NOT_ON_EXAMPLES = {"quadratic", "function", "in_context", "transformer", "recurrent"}
ON_EXAMPLES = [variant for variant in VARIANTS if variant[0] not in NOT_ON_EXAMPLES]
GUESSES = {
    "mlp": lambda task, batch: task.loss_bound / 1.5,
    "convnet": lambda task, batch: task.loss_bound / 1.5,
    "regression": lambda task, batch: jnp.mean(batch[1] ** 2),
    "autoencoder": lambda task, batch: jnp.mean(batch[0] ** 2),
    "quadratic": lambda task, batch: 1.0,
    "function": lambda task, batch: 1.0,
    "vit": lambda task, batch: task.loss_bound / 1.5,
    "in_context": lambda task, batch: jnp.mean(batch[1] ** 2),
    "transformer": lambda task, batch: task.loss_bound / 1.5,
    "recurrent": lambda task, batch: task.loss_bound / 1.5,
}
"""What a loss is before anything is learned: ln C, or the mean square."""
LEARNED = {
    ("mlp", "digits"): (3e-3, 0.25, {"accuracy": 0.93}),
    ("mlp", "patches"): (3e-3, 1.3, {"accuracy": 0.5}),
    ("convnet", "digits"): (1e-2, 0.25, {"accuracy": 0.93}),
    ("regression", "diabetes"): (1e-3, 0.75, {"r2": 0.38}),
    ("autoencoder", "digits"): (3e-3, 0.3, {}),
    ("quadratic", ""): (1e-2, 0.1, {}),
    ("function", ""): (1e-2, 0.02, {}),
    ("vit", "digits"): (3e-3, 0.6, {"accuracy": 0.8}),
    ("in_context", ""): (3e-3, 0.1, {}),
    ("transformer", "lopt"): (1e-2, 2.5, {"accuracy": 0.33}),
    ("recurrent", "lopt"): (1e-2, 2.4, {"accuracy": 0.36}),
}
"""What 500 steps of Adam at a rate reach on `valid`, by family and dataset."""


@pytest.fixture(params=VARIANTS, ids=str)
def task(request):
    family, options = request.param
    return FAMILIES[family](**options)


def test_every_family_is_tried_here():
    assert {family for family, _ in VARIANTS} == set(FAMILIES)
    assert {family for family, _ in LEARNED} == set(FAMILIES)


def test_specs_match_the_parameters(task, key):
    params, _ = jax.eval_shape(task.init, key, task.data)
    specs = jax.tree.leaves(task.specs)
    assert jax.tree.structure(task.specs) == jax.tree.structure(params)
    for spec, param in zip(specs, jax.tree.leaves(params), strict=True):
        assert isinstance(spec, ParamSpec)
        assert spec.shape == param.shape
        assert 0 <= spec.depth <= 1
    depths = [spec.depth for spec in specs]
    assert depths == sorted(depths)


def test_initial_loss_is_that_of_a_guess_and_below_the_bound(task, key, request):
    family, _ = request.node.callspec.params["task"]
    params, state = quick(task.init)(key, task.data)
    measure = quick(task.loss)
    for split in ("train", "test"):
        batch = task.eval_batch(task.data, split)
        loss, (new_state, metrics) = measure(params, state, batch, key)
        assert 0.8 < loss / GUESSES[family](task, batch) < 1.25
        assert loss < task.loss_bound
        assert jax.tree.structure(new_state) == jax.tree.structure(state)
        for name, value in metrics.items():
            assert value.shape == () and np.isfinite(value), name
        assert 0 <= metrics.get("accuracy", 0) <= 1


@pytest.mark.parametrize("task", ON_EXAMPLES, ids=str, indirect=True)
def test_evaluation_reads_the_whole_split(task):
    for split in SPLITS:
        for whole, read in zip(
            task.data[split], task.eval_batch(task.data, split), strict=True
        ):
            np.testing.assert_array_equal(whole, read)


def test_same_options_are_the_same_functions(task, request):
    family, options = request.node.callspec.params["task"]
    again = FAMILIES[family](**options)
    for name in ("init", "batch", "eval_batch", "loss", "specs"):
        assert getattr(again, name) is getattr(task, name)


@pytest.mark.parametrize(("family", "dataset"), LEARNED)
def test_adam_learns_it(family, dataset, key):
    rate, most, least = LEARNED[family, dataset]
    task = FAMILIES[family](**({"dataset": dataset} if dataset else {}))
    adam = optax.adam(rate)

    @jax.jit
    def train(key, data):
        init_key, run_key = jax.random.split(key)
        params, state = task.init(init_key, data)

        def step(carry, step_key):
            keys = jax.random.split(step_key)
            _, *carry = inner_step(task, adam, *carry, keys=keys, data=data)
            return tuple(carry), None

        carry = params, state, adam.init(params)
        (params, *_), _ = jax.lax.scan(step, carry, jax.random.split(run_key, 500))
        return task.loss(params, state, task.eval_batch(data, "valid"), key)

    loss, (_, metrics) = train(key, task.data)
    assert loss < most < GUESSES[family](task, task.eval_batch(task.data, "valid"))
    for name, value in least.items():
        assert metrics[name] > value


@pytest.mark.parametrize("family", FAMILIES)
def test_runs_side_by_side_have_nothing_to_do_with_each_other(family, key):
    """Three particles under vmap and scan, a theta for each; the third is the first."""
    task = FAMILIES[family]()
    lopt = layerwise(bases=("adam",), hidden_sizes=(3,))
    inner = unroll(task, lopt, length=4, min_steps=4, max_steps=8, meta_every=2)

    def run(key):
        theta = lopt.init(key)
        state = inner.init(theta, key, task.data, jnp.int32(8))
        reading, state = inner.advance(theta, state, key, task.data)
        return reading.loss, state.params

    loss, params = quick(jax.vmap(run))(jax.random.split(key, 2)[jnp.asarray([0, 1, 0])])
    assert np.isfinite(loss).all()
    for one, other, same in map(np.asarray, jax.tree.leaves((loss, params))):
        np.testing.assert_array_equal(one, same)
        assert (one != other).any()
