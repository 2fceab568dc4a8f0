"""What a convnet computes, by XLA's own convolution; its options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_tools import loss_and_metrics, params_without_zeros, quick

from lopt.data import image_shape
from lopt.errors import ConfigError
from lopt.families.convnet import convnet
from lopt.families.convolution import convolve


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(8, 8), (4, 5)])
def test_convolution_is_that_of_xla(stride, size):
    random = np.random.RandomState(0)
    x = jnp.asarray(random.randn(3, *size, 6), jnp.float32)
    w = jnp.asarray(random.randn(3, 3, 3, 5), jnp.float32)
    layout = ("CHWN", "HWIO", "CHWN")
    expected = jax.lax.conv_general_dilated(
        x, w, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=layout
    )
    found = quick(convolve, static_argnums=2)(x, w, stride)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def numpy_logits(params, x, *, image, stride, multiplier, norm, residual):
    """Pixel by pixel; x [B, D]."""
    *convolutions, output = (
        jax.tree.map(lambda p: np.asarray(p, np.float64), layer)
        for layer in params.values()
    )
    h = np.asarray(x, np.float64).reshape(len(x), *image)
    for i, layer in enumerate(convolutions):
        step = 1 if i else stride
        rows, columns = (-(-size // step) for size in h.shape[1:3])
        padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
        out = np.zeros((len(x), rows, columns, layer["w"].shape[3]))
        for r in range(rows):
            for c in range(columns):
                window = padded[:, r * step : r * step + 3, c * step : c * step + 3]
                out[:, r, c] = np.tensordot(window, layer["w"], 3)
        if norm:
            mean, var = out.mean(3, keepdims=True), out.var(3, keepdims=True)
            out = (out - mean) / np.sqrt(var + 1e-5) * layer["scale"]
        branch = np.maximum(out + layer["b"], 0)
        h = h + branch if residual and i else branch
    return multiplier * (h.mean((1, 2)) @ output["w"]) + output["b"]


@pytest.mark.parametrize("dataset", ["digits", "patches"])
@pytest.mark.parametrize("normalization", ["none", "layer"])
@pytest.mark.parametrize(
    ("form", "multiplier", "residual"), [("mup", 4 / 12, False), ("plain", 1.0, True)]
)
def test_loss_is_that_of_plain_numpy(
    key, dataset, normalization, form, multiplier, residual
):
    task = convnet(
        dataset=dataset,
        normalization=normalization,
        form=form,
        residual=residual,
        width=12,
        base_width=4,
        depth=1,
        batch_size=8,
    )
    params = params_without_zeros(task, key)
    x, y = task.batch(key, task.data, "train")
    logits = numpy_logits(
        params,
        x,
        image=image_shape(dataset),
        stride=2,
        multiplier=multiplier,
        norm=normalization == "layer",
        residual=residual,
    )
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    loss, metrics = loss_and_metrics(task, params, (x, y), key)
    assert loss == pytest.approx(-log_p[np.arange(8), y].mean(), rel=1e-4)
    assert metrics["accuracy"] == np.mean(logits.argmax(1) == np.asarray(y))


def test_specs():
    specs = convnet(width=64, depth=2).specs
    kernels = [specs[f"layer_{i}"]["w"] for i in range(4)]
    assert [k.role for k in kernels] == ["input", "hidden", "hidden", "output"]
    assert [k.shape for k in kernels] == [
        (3, 3, 1, 64), (3, 3, 64, 64), (3, 3, 64, 64), (64, 10),
    ]  # fmt: skip
    assert (kernels[1].in_axes, kernels[1].out_axes) == ((0, 1, 2), (3,))
    assert (kernels[1].fan_in, kernels[1].width_in, kernels[1].width_out) == (576, 4, 4)
    assert (kernels[0].width_in, kernels[0].width_out) == (1, 4)
    assert (kernels[3].width_in, kernels[3].forward) == (4, 1 / 4)
    assert [k.num_layers for k in kernels] == [4] * 4


def test_initial_variances(key):
    task = convnet(width=64, depth=1, init="he", output_init=0.5)
    params, _ = quick(task.init)(key, task.data)
    for i, (fan_in, factor) in enumerate([(9, 2), (576, 2), (64, 0.5)]):
        variance = float(jnp.var(params[f"layer_{i}"]["w"]))
        assert variance == pytest.approx(factor / fan_in, rel=0.15)


def test_options_are_in_the_name():
    task = convnet(stride=1, form="plain", normalization="layer", num_examples=9)
    assert task.name == "convnet-digits-2x16-relu-stride-1-layer-norm-plain-9-examples"
    assert convnet().name == "convnet-digits-2x16-relu"
    assert convnet(residual=True).name == "resnet-digits-2x16-relu"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"residual": "no"}, "`residual` must be `true` or `false`, got 'no'"),
        ({"stride": 0}, "`stride` must be an integer of at least 1, got 0"),
        ({"width": 0}, "`width` must be an integer of at least 1, got 0"),
        ({"depth": -1}, "`depth` must be an integer of at least 0, got -1"),
        ({"batch_size": 1.5}, "`batch_size` must be an integer of at least 1, got 1.5"),
        ({"dataset": "wine"}, "`dataset` must be one of images, got 'wine'"),
        ({"dataset": "digit"}, "unknown dataset `digit`"),
        ({"form": "sp"}, "`form` must be `mup` or `plain`, got 'sp'"),
        ({"label_noise": 1}, "`label_noise` must be a number of at least 0 and below 1"),
    ],
)
def test_bad_options(unchecked_types, options, message):
    with pytest.raises(ConfigError) as error:
        convnet(**options)
    assert str(error.value).startswith(message)
