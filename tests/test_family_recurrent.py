"""What recurrent networks compute, in plain numpy, one byte after the other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_tools import loss_and_metrics, params_without_zeros

from lopt.errors import ConfigError
from lopt.families.recurrent import recurrent


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(layer, x, state):
    h, width = state["h"], len(state["h"])
    w, u, b = layer["input"], layer["recurrent"], layer["bias"]
    gate = [slice(i * width, (i + 1) * width) for i in range(3)]
    r = sigmoid(x @ w[:, gate[0]] + b[gate[0]] + h @ u[:, gate[0]])
    z = sigmoid(x @ w[:, gate[1]] + b[gate[1]] + h @ u[:, gate[1]])
    n = np.tanh(x @ w[:, gate[2]] + b[gate[2]] + r * (h @ u[:, gate[2]]))
    return {"h": z * h + (1 - z) * n}


def lstm(layer, x, state):
    gates = x @ layer["input"] + h_part(layer, state) + layer["bias"]
    i, f, g, o = np.split(gates, 4)
    s = sigmoid(f) * state["s"] + sigmoid(i) * np.tanh(g)
    return {"h": sigmoid(o) * np.tanh(s), "s": s}


def h_part(layer, state):
    return state["h"] @ layer["recurrent"]


def numpy_logits(cell, params, window, forward):
    """[T, C] of one window of T bytes."""
    first, *layers, last = (params[name] for name in sorted(params))
    width = first["bytes"].shape[1]
    states = [{"h": np.zeros(width), "s": np.zeros(width)} for _ in layers]
    logits = []
    for byte in window:
        h = first["bytes"][byte]
        for i, layer in enumerate(layers):
            states[i] = {"gru": gru, "lstm": lstm}[cell](layer, h, states[i])
            h = states[i]["h"]
        logits.append(forward * (h @ last["logits"]))
    return np.array(logits)


@pytest.mark.parametrize(
    ("cell", "form", "forward"), [("gru", "mup", 0.5), ("lstm", "plain", 1.0)]
)
def test_loss_is_that_of_plain_numpy(key, cell, form, forward):
    task = recurrent(
        cell=cell,
        width=8,
        base_width=4,
        depth=2,
        form=form,
        sequence_length=6,
        batch_size=5,
    )
    params = params_without_zeros(task, key)
    windows = np.asarray(task.batch(key, task.data, "train"))
    exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    losses, correct = [], []
    for window in windows:
        logits = numpy_logits(cell, exact, window[:-1], forward)
        log_p = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
        losses.append(-log_p[np.arange(6), window[1:]])
        correct.append(logits.argmax(axis=1) == window[1:])
    loss, metrics = loss_and_metrics(task, params, jnp.asarray(windows), key)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(np.mean(correct))
    assert metrics["bits_per_byte"] == pytest.approx(loss * math.log2(math.e))


@pytest.mark.parametrize(("cell", "gates"), [("gru", 3), ("lstm", 4)])
def test_gates_are_one_tensor(key, cell, gates):
    task = recurrent(cell=cell, width=16, base_width=8)
    params, _ = jax.eval_shape(task.init, key, task.data)
    layer, specs = params["layer_1"], task.specs["layer_1"]
    for name in ("input", "recurrent"):
        assert layer[name].shape == (16, gates * 16)
        assert (specs[name].role, specs[name].in_axes) == ("hidden", (0,))
        assert (specs[name].width_in, specs[name].width_out) == (2, 2)


def test_an_lstm_remembers_at_first(key):
    bias = np.zeros((3, 4, 16))
    bias[:, 1] = 1  # gates i, f, g, o
    params, _ = recurrent(cell="lstm", width=16, depth=3).init(key, None)
    for i in range(3):
        np.testing.assert_array_equal(params[f"layer_{i + 1}"]["bias"], bias[i].ravel())


@pytest.mark.parametrize("cell", ["rnn", 1])
def test_bad_options(unchecked_types, cell):
    with pytest.raises(ConfigError) as error:
        recurrent(cell=cell)
    assert str(error.value).startswith("`cell` must be `gru` or `lstm`, got ")
