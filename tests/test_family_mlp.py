"""What an MLP computes, in plain numpy; its options."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt import mup
from lopt.base import SPLITS
from lopt.data import DATASETS
from lopt.errors import ConfigError
from lopt.families.layers import ACTIVATIONS
from lopt.families.mlp import mlp


def test_batches_are_from_the_split_that_is_asked_for(key):
    task = mlp(batch_size=32)
    for split in SPLITS:
        x, y = map(np.asarray, task.batch(key, task.data, split))
        assert x.shape == (32, 64) and y.shape == (32,)
        whole_x, whole_y = map(np.asarray, task.data[split])
        source = {
            row.tobytes(): label for row, label in zip(whole_x, whole_y, strict=True)
        }
        assert [source[row.tobytes()] for row in x] == list(y)


def test_datasets_of_one_shape_share_functions(monkeypatch):
    monkeypatch.setitem(DATASETS, "upside_down", DATASETS["digits"])
    one, other = mlp(), mlp(dataset="upside_down")
    assert one.loss is other.loss and one.init is other.init
    assert one.data["train"][0] is not other.data["train"][0]


def numpy_logits(params, x, *, activation, multiplier, norm):
    h = np.asarray(x, np.float64)
    *hidden, output = params.values()
    for layer in hidden:
        h = h @ np.asarray(layer["w"], np.float64)
        if norm:
            h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
            h = h * np.asarray(layer["scale"])
        h = np.asarray(ACTIVATIONS[activation](jnp.asarray(h + np.asarray(layer["b"]))))
    return multiplier * (h @ np.asarray(output["w"])) + np.asarray(output["b"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalization", ["none", "layer"])
@pytest.mark.parametrize(("form", "multiplier"), [("mup", 32 / 48), ("plain", 1.0)])
def test_loss_is_that_of_plain_numpy(key, activation, normalization, form, multiplier):
    task = mlp(
        width=48,
        depth=2,
        activation=activation,
        normalization=normalization,
        form=form,
        output_init=1.0,
    )
    params, _ = task.init(key, task.data)
    # Nothing may be zero, nor alike for all classes.
    params = jax.tree.map(lambda p: p + 0.2 * jax.random.normal(key, p.shape), params)
    x, y = task.batch(key, task.data, "train")
    logits = numpy_logits(
        params,
        x,
        activation=activation,
        multiplier=multiplier,
        norm=normalization == "layer",
    )
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    expected = -log_p[np.arange(len(y)), np.asarray(y)].mean()
    loss, (_, metrics) = task.loss(params, (), (x, y), key)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(metrics["accuracy"]) == np.mean(logits.argmax(1) == np.asarray(y))


@pytest.mark.parametrize(
    ("init", "gain"), [("lecun", 1.0), ("he", 2.0), ("uniform", 1 / 3)]
)
@pytest.mark.parametrize(("form", "forward"), [("mup", 1 / 8), ("plain", 1.0)])
def test_initial_variances(key, init, gain, form, forward):
    task = mlp(width=256, depth=2, init=init, form=form, output_init=0.5)
    params, _ = task.init(key, task.data)
    for name, fan_in, factor in [
        ("layer_0", 64, 1.0),
        ("layer_1", 256, 1.0),
        ("layer_2", 256, 0.25),
    ]:
        variance = float(jnp.var(params[name]["w"]))
        assert variance == pytest.approx(factor * gain / fan_in, rel=0.1)
        assert not params[name]["b"].any()
    assert task.specs["layer_2"]["w"].forward == forward


def test_roles_and_widths_at_and_away_from_the_base_width():
    for width, ratio in [(32, 1), (128, 4)]:
        specs = mlp(width=width, depth=3, normalization="layer").specs
        roles = [specs[f"layer_{i}"]["w"].role for i in range(4)]
        assert roles == ["input", "hidden", "hidden", "output"]
        assert [specs[f"layer_{i}"]["w"].width_in for i in range(4)] == [
            1, ratio, ratio, ratio,
        ]  # fmt: skip
        assert specs["layer_0"]["scale"].role == "norm"
        assert [specs[f"layer_{i}"]["w"].depth for i in range(4)] == [
            0,
            1 / 3,
            2 / 3,
            1,
        ]
        assert specs["layer_2"]["b"].num_layers == 4


@pytest.mark.parametrize("form", mup.FORMS)
def test_logistic_regression_is_the_same_at_every_width(key, form):
    """Nothing of it grows: all widths are one program, and its multipliers are 1."""
    one, other = (mlp(depth=0, form=form, width=width) for width in (32, 512))
    assert one.specs == other.specs
    for spec in jax.tree.leaves(other.specs):
        assert mup.update_multiplier(spec, "entrywise") == 1
        assert mup.update_multiplier(spec, "orthogonalized") == 1
    params, _ = one.init(key, one.data)
    x, y = one.batch(key, one.data, "train")
    logits = x @ params["layer_0"]["w"] + params["layer_0"]["b"][None]
    expected = -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(y)), y])
    for task in (one, other):
        loss, _ = task.loss(params, (), (x, y), key)
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_one_layer_alone_is_the_output():
    spec = mlp(depth=0).specs["layer_0"]["w"]
    assert (spec.role, spec.depth, spec.num_layers) == ("output", 0, 1)
    assert (spec.width_in, spec.forward) == (1, 1)


def test_layers_sort_in_order_from_ten_on(key):
    params, _ = mlp(depth=11, width=8).init(key, None)
    assert sorted(params) == [f"layer_{i:02}" for i in range(12)]
    assert params["layer_00"]["w"].shape == (64, 8)
    assert params["layer_11"]["w"].shape == (8, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "`width` must be an integer of at least 1, got 0"),
        ({"width": 3.5}, "`width` must be an integer of at least 1, got 3.5"),
        ({"depth": -1}, "`depth` must be an integer of at least 0, got -1"),
        ({"depth": True}, "`depth` must be an integer of at least 0, got true"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1, got 0"),
        ({"base_width": 0}, "`base_width` must be an integer of at least 1, got 0"),
        ({"output_init": -1.0}, "`output_init` must not be negative, got -1"),
        ({"output_init": math.inf}, "`output_init` must not be negative"),
        ({"output_init": "a"}, "`output_init` must not be negative, got 'a'"),
        ({"activation": "rely"}, "`activation` must be `relu` or `tanh` or"),
        ({"normalization": 1}, "`normalization` must be `none` or `layer` or `batch`"),
        ({"init": "xavier"}, "`init` must be `lecun` or `he` or `uniform`, got"),
        ({"form": "sp"}, "`form` must be `mup` or `plain`, got 'sp'"),
        ({"dataset": "mnist"}, "unknown dataset `mnist`"),
        ({"dataset": "diabetes"}, "`dataset` must have classes, got 'diabetes'"),
        ({"specs": "none"}, "`specs` must be `stated` or `inferred`, got 'none'"),
        ({"classes": [5, 6, 10]}, "`classes.2` must be a class of `digits` (0 … 9)"),
        ({"classes": [5, True]}, "`classes.1` must be a class of `digits` (0 … 9), got"),
        ({"classes": [5]}, "`classes` must be at least two different ones, got [5]"),
        ({"classes": [5, 6, 5]}, "`classes` must be at least two different ones, got"),
        ({"classes": 5}, "`classes` must be a list, got 5"),
        (
            {"classes": [0, 1], "num_examples": 300},
            "`num_examples` must be an integer from 1 to 193, got 300",
        ),
        ({"num_examples": 0}, "`num_examples` must be an integer from 1 to 988, got 0"),
        ({"num_examples": 989}, "`num_examples` must be an integer from 1 to 988, got"),
        ({"num_examples": 5.0}, "`num_examples` must be an integer from 1 to 988, got"),
        ({"label_noise": 1}, "`label_noise` must be a number of at least 0 and below 1"),
        ({"label_noise": True}, "`label_noise` must be a number of at least 0 and below"),
        ({"label_noise": math.nan}, "`label_noise` must be a number of at least 0 and"),
        ({"input_scale": 0.0}, "`input_scale` must be positive, got 0.0"),
        ({"input_scale": math.inf}, "`input_scale` must be positive, got inf"),
        ({"input_offset": math.nan}, "`input_offset` must be a finite number, got nan"),
        ({"input_offset": "1"}, "`input_offset` must be a finite number, got '1'"),
        (
            {"data_seed": -1},
            "`data_seed` must be an integer from 0 to 4294967295",
        ),
    ],
)
def test_bad_options(unchecked_types, options, message):
    with pytest.raises(ConfigError) as error:
        mlp(**options)
    assert str(error.value).startswith(message)


def test_inferred_specs_are_those_of_shapes_alone(key):
    task = mlp(specs="inferred", form="plain", depth=1, width=64)
    params, _ = task.init(key, task.data)
    assert task.specs == mup.infer_specs(params)
    assert {spec.depth for spec in jax.tree.leaves(task.specs)} == {None}
    with pytest.raises(ConfigError, match="`form` must be `plain`"):
        mlp(specs="inferred")


def test_what_is_done_to_the_data_is_in_the_name_and_not_in_the_program():
    plain = mlp(data_seed=3)
    noisy = mlp(label_noise=0.25, input_scale=0.5, input_offset=1.1, data_seed=3)
    few = mlp(num_examples=100)
    assert plain.name == mlp().name + "-data-3"
    assert noisy.name == mlp().name + "-noise-0.25-scale-0.5-offset-1.1-data-3"
    assert few.name == mlp().name + "-100-examples"
    for task in (noisy, few):
        assert task.loss is plain.loss and task.init is plain.init
    (x, y), (u, v) = plain.data["train"], noisy.data["train"]
    assert (np.asarray(y) != np.asarray(v)).mean() == pytest.approx(0.25, abs=1e-3)
    np.testing.assert_allclose(0.5 * (x + 1.1), u, rtol=1e-5, atol=1e-6)
    assert len(few.data["train"][1]) == 100
