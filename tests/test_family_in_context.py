"""What in-context regression is, and what its transformers compute, in plain numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_tools import loss_and_metrics, params_without_zeros, quick
from numpy_blocks import blocks

from lopt.base import SPLITS
from lopt.errors import ConfigError
from lopt.families.in_context import draw_sequences, in_context


def sequences(batch, n):
    """Places [B, T, P] and answers [B]."""
    z, y = map(np.asarray, batch)
    return np.asarray(z, np.float64).T.reshape(-1, n + 1, len(z)), y


def test_problems_are_linear_and_drawn_anew(key):
    d, n = 3, 7
    z, y = sequences(quick(draw_sequences, static_argnums=(1, 2, 3))(key, 2000, n, d), n)
    x, told = z[:, :, :d], z[:, :, d]
    assert not told[:, n].any()
    solved = [np.linalg.lstsq(x[i, :n], told[i, :n], rcond=None) for i in range(2000)]
    weights = np.array([found[0] for found in solved])
    np.testing.assert_allclose(np.sum(weights * x[:, n], axis=1), y, atol=2e-4)
    assert np.cov(weights.T) == pytest.approx(np.eye(d) / d, abs=0.03)
    assert np.cov(x.reshape(-1, d).T) == pytest.approx(np.eye(d), abs=0.03)
    both = np.concatenate([weights, x.reshape(2000, -1)], axis=1)
    off = np.corrcoef(both.T) - np.eye(both.shape[1])
    assert np.abs(off).max() < 0.12
    assert np.mean(y**2) == pytest.approx(1, abs=0.1)


def numpy_linear(layers, h, *, num_heads, scale, n):
    """[T, D] of one sequence."""
    for i in range(0, len(layers), 2):
        attend, out = layers[i : i + 2]
        heads = [
            np.split(h @ attend[name], num_heads, axis=1)
            for name in ("query", "key", "value")
        ]
        mixed = [
            scale * (q @ k[:n].T) @ v[:n] / n for q, k, v in zip(*heads, strict=True)
        ]
        h = h + np.concatenate(mixed, axis=1) @ out["out"]
    return h


@pytest.mark.parametrize("kind", ["linear", "softmax"])
@pytest.mark.parametrize(
    ("num_heads", "form", "scale", "forward"),
    [(4, "mup", math.sqrt(2) / 4, 0.5), (2, "plain", 1 / math.sqrt(8), 1.0)],
)
def test_loss_is_that_of_plain_numpy(key, kind, num_heads, form, scale, forward):
    sizes = {"num_inputs": 3, "context": 5, "width": 16, "base_width": 8, "batch_size": 4}
    task = in_context(kind=kind, depth=2, num_heads=num_heads, form=form, **sizes)
    params = params_without_zeros(task, key)
    batch = task.batch(key, task.data, "train")
    exact = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    first, *layers, last = (exact[name] for name in sorted(exact))
    heads = {"num_heads": num_heads, "scale": scale}
    errors = []
    for z, y in zip(*sequences(batch, 5), strict=True):
        h = z @ first["inputs"]
        if kind == "linear":
            h = numpy_linear(layers, h, **heads, n=5)
        else:
            h = blocks(layers, h, **heads, seen=lambda t: range(5))
        errors.append((forward * h[5] @ last["outputs"])[0] - y)
    loss, _ = loss_and_metrics(task, params, batch, key)
    assert loss == pytest.approx(np.mean(np.square(errors)), rel=1e-4)


def test_a_linear_block_can_take_the_best_step_of_gradient_descent(key):
    """Its cost is known: (d + 1) / (n + d + 1) of a guess at zero's."""
    d, n = 4, 16
    width = d + 1
    sizes = {"num_inputs": d, "context": n, "width": width, "base_width": width}
    task = in_context(depth=1, batch_size=20_000, **sizes)
    eye, of_y = np.eye(width), np.diag([0.0] * d + [1.0])
    step = n / (n + d + 1) * math.sqrt(width)
    layers = [
        {"inputs": eye},
        {"query": eye - of_y, "key": eye - of_y, "value": of_y},
        {"out": step * eye},
        {"outputs": eye[:, d:]},
    ]
    names = sorted(task.specs)
    params = jax.tree.map(jnp.float32, dict(zip(names, layers, strict=True)))
    batch = task.batch(key, task.data, "train")
    loss, _ = loss_and_metrics(task, params, batch, key)
    assert loss == pytest.approx((d + 1) / (n + d + 1), rel=0.05)


def test_curves_are_read_on_the_same_problems_and_splits_differ(key):
    task, other = in_context(), in_context(data_seed=1)
    all_splits = quick(lambda data: [task.eval_batch(data, split) for split in SPLITS])
    first, again, others = map(all_splits, (task.data, task.data, other.data))
    read = []
    for i, num in enumerate((64, 128, 256, 512)):
        z, y = first[i]
        assert z.shape == (5, 17 * num) and y.shape == (num,)
        np.testing.assert_array_equal(again[i][1], y)
        assert (others[i][1] != y).all()
        read.append(set(np.asarray(z[0]).tolist()))
    # Of 24 bits, so that a few are alike; of one key, a half would be.
    assert len(set.union(*read)) > 0.99 * 17 * (64 + 128 + 256 + 512)
    assert other.loss is task.loss
    one, two = (task.batch(k, task.data, "train")[1] for k in jax.random.split(key))
    assert (np.asarray(one) != np.asarray(two)).all()


def test_roles_and_widths():
    for form, forward in (("mup", 1 / 3), ("plain", 1)):
        specs = in_context(width=96, form=form).specs
        names = sorted(specs)
        expected = {
            "inputs": ("input", 1, 3, 1),
            "outputs": ("output", 3, 1, forward),
        }
        for layer in specs.values():
            for name, spec in layer.items():
                found = spec.role, spec.width_in, spec.width_out, spec.forward
                assert found == expected.get(name, ("hidden", 3, 3, 1)), name
        assert len(names) == 6 and specs[names[0]]["inputs"].shape == (5, 96)


def test_names():
    assert in_context().name == "in-context-linear-16x4-2x32"
    name = in_context(kind="softmax", form="plain", data_seed=3).name
    assert name == "in-context-softmax-16x4-2x32-plain-data-3"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "causal"}, "`kind` must be `linear` or `softmax`, got 'causal'"),
        ({"num_inputs": 0}, "`num_inputs` must be an integer of at least 1, got 0"),
        ({"context": 0}, "`context` must be an integer of at least 1, got 0"),
        ({"batch_size": 1.5}, "`batch_size` must be an integer of at least 1, got 1.5"),
        ({"num_heads": 3}, "`width` must be a multiple of `num_heads`, 3, got 32"),
        ({"data_seed": -1}, "`data_seed` must be an integer from 0 to 4294967295, got"),
        ({"depth": 0}, "`depth` must be an integer of at least 1, got 0"),
    ],
)
def test_bad_options(unchecked_types, options, message):
    with pytest.raises(ConfigError) as error:
        in_context(**options)
    assert str(error.value).startswith(message)
