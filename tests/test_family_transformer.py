"""What a transformer computes, in plain numpy, one window and one place at a time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_tools import loss_and_metrics, params_without_zeros
from numpy_blocks import blocks, norm

from lopt.errors import ConfigError
from lopt.families.transformer import transformer


def numpy_logits(params, window, *, num_heads, scale, forward):
    """[T, C] of one window of T bytes."""
    first, *layers, last = (params[name] for name in sorted(params))
    h = first["bytes"][window] + first["positions"]
    seen = {"seen": lambda t: range(t + 1)}
    h = blocks(layers, h, num_heads=num_heads, scale=scale, **seen)
    return forward * (norm(h, last["gain"]) @ last["logits"])


@pytest.mark.parametrize(
    ("num_heads", "form", "scale", "forward"),
    [
        (4, "mup", math.sqrt(2) / 4, 0.5),
        (2, "plain", 1 / math.sqrt(8), 1.0),
    ],
)
def test_loss_is_that_of_plain_numpy(key, num_heads, form, scale, forward):
    task = transformer(
        width=16,
        base_width=8,
        depth=2,
        num_heads=num_heads,
        form=form,
        sequence_length=6,
        batch_size=5,
    )
    params = params_without_zeros(task, key)
    windows = np.asarray(task.batch(key, task.data, "train"))
    exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    losses, correct = [], []
    for window in windows:
        logits = numpy_logits(
            exact, window[:-1], num_heads=num_heads, scale=scale, forward=forward
        )
        log_p = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
        losses.append(-log_p[np.arange(6), window[1:]])
        correct.append(logits.argmax(axis=1) == window[1:])
    loss, metrics = loss_and_metrics(task, params, jnp.asarray(windows), key)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(np.mean(correct))
    assert metrics["bits_per_byte"] == pytest.approx(loss * math.log2(math.e))


def test_layers_are_counted_four_to_a_block(key):
    task = transformer(depth=3, width=8, base_width=8)
    params, _ = jax.eval_shape(task.init, key, task.data)
    assert sorted(params) == [f"layer_{i:02}" for i in range(14)]
    assert set(params["layer_09"]) == {"gain", "query", "key", "value"}
    assert task.specs["layer_10"]["out"].depth == 10 / 13
    assert task.specs["layer_10"]["out"].num_layers == 14


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 0}, "`num_heads` must be an integer of at least 1, got 0"),
        ({"num_heads": 3}, "`width` must be a multiple of `num_heads`, 3, got 32"),
        ({"width": 30, "num_heads": 3}, "`base_width` must be a multiple of `num_heads`"),
    ],
)
def test_bad_options(unchecked_types, options, message):
    with pytest.raises(ConfigError) as error:
        transformer(**options)
    assert str(error.value).startswith(message)
