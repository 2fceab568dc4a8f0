"""What a vision transformer computes, in plain numpy, image by image; its options."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_tools import loss_and_metrics, params_without_zeros, quick
from numpy_blocks import blocks, norm

from lopt.data import image_shape
from lopt.errors import ConfigError
from lopt.families.vit import vit


def numpy_patches(image, side):
    """[T, P] of an image [H, W, C], in reading order."""
    return np.array(
        [
            image[i : i + side, j : j + side].ravel()
            for i in range(0, image.shape[0], side)
            for j in range(0, image.shape[1], side)
        ]
    )


@pytest.mark.parametrize(
    ("options", "scale", "forward"),
    [
        ({"num_heads": 4}, math.sqrt(2) / 4, 0.5),
        ({"num_heads": 2, "form": "plain", "dataset": "patches"}, 1 / math.sqrt(8), 1.0),
    ],
)
def test_loss_is_that_of_plain_numpy(key, options, scale, forward):
    task = vit(width=16, base_width=8, depth=1, patch_size=4, batch_size=5, **options)
    params = params_without_zeros(task, key)
    x, y = map(np.asarray, task.batch(key, task.data, "train"))
    exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    first, *layers, last = (exact[name] for name in sorted(exact))
    all_places = range(len(first["positions"]))
    logits = []
    for pixels in x:
        image = pixels.reshape(image_shape(options.get("dataset", "digits")))
        h = numpy_patches(image, 4) @ first["inputs"] + first["positions"]
        heads = {"num_heads": options["num_heads"], "scale": scale}
        h = blocks(layers, h, **heads, seen=lambda t: all_places)
        logits.append(forward * norm(h, last["gain"]).mean(0) @ last["logits"])
    log_p = np.array(logits) - np.log(np.exp(logits).sum(1, keepdims=True))
    loss, metrics = loss_and_metrics(task, params, (jnp.asarray(x), jnp.asarray(y)), key)
    assert loss == pytest.approx(-log_p[np.arange(5), y].mean(), rel=1e-4)
    assert metrics["accuracy"] == pytest.approx(np.mean(np.argmax(logits, 1) == y))


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("form", ["mup", "plain"])
def test_roles_and_widths(form, n):
    specs = vit(width=32 * n, form=form).specs
    expected = {
        "inputs": ("input", 1, n, 1),
        "positions": ("embedding", 1, n, 1),
        "gain": ("norm", 1, n, 1),
        "logits": ("output", n, 1, 1 / n if form == "mup" else 1),
    }
    for layer in specs.values():
        for name, spec in layer.items():
            found = spec.role, spec.width_in, spec.width_out, spec.forward
            assert found == expected.get(name, ("hidden", n, n, 1)), name


def test_initial_variances(key):
    task = vit(width=256, depth=2, patch_size=4)
    params, _ = quick(task.init)(key, task.data)
    layers = [params[name] for name in sorted(params)]
    for tensor, expected in [
        (layers[0]["inputs"], 1 / 16),
        (layers[0]["positions"], 1 / 4),
        (layers[2]["out"], 1 / 256 / 4),
        (layers[-1]["logits"], 0.01 / 256),
    ]:
        assert float(jnp.var(tensor)) == pytest.approx(expected, rel=0.15)


def test_names():
    assert vit().name == "vit-digits-2x32-patch-2"
    name = vit(form="plain", patch_size=4, num_examples=50, depth=1, width=8).name
    assert name == "vit-digits-1x8-patch-4-plain-50-examples"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "wine"}, "`dataset` must be one of images, got 'wine'"),
        (
            {"patch_size": 3},
            "`patch_size` must divide the sides of images of 8x8 pixels, got 3",
        ),
        ({"patch_size": 0}, "`patch_size` must be an integer of at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1, got 0"),
        ({"depth": 0}, "`depth` must be an integer of at least 1, got 0"),
        ({"num_heads": 3}, "`width` must be a multiple of `num_heads`, 3, got 32"),
        ({"width": 30, "num_heads": 3}, "`base_width` must be a multiple of `num_heads`"),
        ({"form": "sp"}, "`form` must be `mup` or `plain`, got 'sp'"),
    ],
)
def test_bad_options(unchecked_types, options, message):
    with pytest.raises(ConfigError) as error:
        vit(**options)
    assert str(error.value).startswith(message)
