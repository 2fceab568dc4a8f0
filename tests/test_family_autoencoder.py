"""What autoencoders compute, in plain numpy; their options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_tools import loss_and_metrics, params_without_zeros, quick

from lopt.errors import ConfigError
from lopt.families.autoencoder import autoencoder

WIDTH, CODE = 48, 4


def made(key, **options):
    """A task of one hidden layer each way, and parameters none of which is zero."""
    task = autoencoder(width=WIDTH, code_size=CODE, activation="tanh", **options)
    params = params_without_zeros(task, key, noise=0.1)
    x, y = task.data["valid"]
    return task, params, (x[:20], y[:20])


def half(params, first, x, multiplier):
    """An encoder's or a decoder's output for x [B, D]."""
    hidden, output = (params[f"layer_{i}"] for i in (first, first + 1))
    h = np.tanh(x @ np.asarray(hidden["w"]) + np.asarray(hidden["b"]))
    return multiplier * (h @ np.asarray(output["w"])) + np.asarray(output["b"])


@pytest.mark.parametrize(("form", "multiplier"), [("mup", 32 / 48), ("plain", 1.0)])
def test_loss_is_that_of_plain_numpy(key, form, multiplier):
    task, params, batch = made(key, form=form)
    x = np.asarray(batch[0])
    decoded = half(params, 2, half(params, 0, x, multiplier), multiplier)
    loss, metrics = loss_and_metrics(task, params, batch, key)
    assert loss == pytest.approx(np.mean((decoded - x) ** 2), rel=1e-4)
    assert metrics["reconstruction"] == loss and metrics["kl"] == 0


def test_variational_loss_is_the_weighted_bound(key):
    """The KL by the formula; the reconstruction's mean over samples, by Monte Carlo."""
    task, params, batch = made(key, form="plain", variational=True, kl_weight=0.3)
    x = np.asarray(batch[0])
    mean, log_variance = np.split(half(params, 0, x, 1.0), 2, axis=1)
    deviation = np.exp(log_variance / 2)
    kl = -np.log(deviation) + (deviation**2 + mean**2) / 2 - 0.5
    kl = kl.sum(axis=1).mean()
    losses, (_, metrics) = jax.lax.map(
        lambda key: task.loss(params, (), batch, key), jax.random.split(key, 400)
    )
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-4)
    whole = metrics["reconstruction"] + 0.3 / 64 * kl
    np.testing.assert_allclose(losses, whole, rtol=1e-5)
    expected = []
    for noise in np.random.RandomState(0).randn(400, *mean.shape):
        decoded = half(params, 2, mean + deviation * noise, 1.0)
        expected.append(np.mean((decoded - x) ** 2))
    spread = np.std(expected) / 20 * 2**0.5
    assert np.std(losses) > 0
    assert abs(np.mean(metrics["reconstruction"]) - np.mean(expected)) < 4 * spread


def test_every_example_and_number_has_noise_of_its_own(key):
    """An encoder that says N(0, 1), and a decoder that shows the code."""
    task = autoencoder(variational=True, depth=0, code_size=32, form="plain")
    params, _ = jax.eval_shape(task.init, key, task.data)
    zero = jax.tree.map(lambda p: jnp.zeros(p.shape), params)
    zero["layer_1"]["w"] = jnp.eye(32, 64)
    x = jnp.zeros((100, 64))
    _, metrics = loss_and_metrics(task, zero, (x, jnp.zeros(100)), key)
    assert metrics["kl"] == 0
    # A mean of 3200 squares of N(0, 1), which are half of the outputs: 0.5 +- 0.0125.
    assert metrics["reconstruction"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("variational", "outputs"), [(False, CODE), (True, 2 * CODE)])
def test_specs(variational, outputs):
    task = autoencoder(width=WIDTH, code_size=CODE, variational=variational)
    kernels = [task.specs[f"layer_{i}"]["w"] for i in range(4)]
    assert [k.role for k in kernels] == ["input", "output", "input", "output"]
    assert [k.shape for k in kernels] == [
        (64, WIDTH), (WIDTH, outputs), (CODE, WIDTH), (WIDTH, 64),
    ]  # fmt: skip
    assert [k.forward for k in kernels] == [1, 32 / 48, 1, 32 / 48]
    assert [k.depth for k in kernels] == [0, 1 / 3, 2 / 3, 1]
    deep = autoencoder(depth=2, width=64, normalization="layer").specs
    roles = [deep[f"layer_{i}"]["w"].role for i in range(6)]
    assert roles == ["input", "hidden", "output"] * 2
    assert [i for i in range(6) if "scale" in deep[f"layer_{i}"]] == [0, 1, 3, 4]


def test_initial_codes_and_outputs_are_small(key):
    task = autoencoder(width=256, code_size=16, output_init=0.5, form="plain")
    params, _ = quick(task.init)(key, task.data)
    for i, (fan_in, factor) in enumerate([(64, 1), (256, 0.25), (16, 1), (256, 0.25)]):
        variance = float(jnp.var(params[f"layer_{i}"]["w"]))
        assert variance == pytest.approx(factor / fan_in, rel=0.1)


def test_options_are_in_the_name():
    assert autoencoder(depth=2).name == "autoencoder-digits-2x32-code-8-relu"
    task = autoencoder(variational=True, kl_weight=1.0, code_size=2, form="plain")
    assert task.name == "vae-digits-1x32-code-2-relu-kl-1-plain"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"code_size": 0}, "`code_size` must be an integer of at least 1, got 0"),
        ({"variational": 1}, "`variational` must be `true` or `false`, got 1"),
        ({"kl_weight": 0.0}, "`kl_weight` must be positive, got 0.0"),
        ({"batch_size": True}, "`batch_size` must be an integer of at least 1, got true"),
        ({"dataset": "faces"}, "unknown dataset `faces`"),
        ({"output_init": -1}, "`output_init` must not be negative, got -1"),
    ],
)
def test_bad_options(unchecked_types, options, message):
    with pytest.raises(ConfigError) as error:
        autoencoder(**options)
    assert str(error.value).startswith(message)
