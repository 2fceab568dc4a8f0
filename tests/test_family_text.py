"""What families on text have in common: windows, specs, initial weights and losses."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from family_tools import quick

from lopt.base import SPLITS
from lopt.corpus import NUM_CLASSES, corpus
from lopt.errors import ConfigError
from lopt.families import FAMILIES

BOTH = pytest.mark.parametrize("family", ["transformer", "recurrent"])


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("form", ["mup", "plain"])
@BOTH
def test_roles_and_widths(family, form, n):
    """Of matrices, all that is not the first or the last grows on both sides."""
    specs = FAMILIES[family](width=32 * n, base_width=32, form=form).specs
    forward = 1 / n if form == "mup" else 1
    names = sorted(specs)
    for layer in names:
        for name, spec in specs[layer].items():
            found = spec.role, spec.width_in, spec.width_out, spec.forward
            expected = {
                "bytes": ("embedding", 1, n, 1),
                "positions": ("embedding", 1, n, 1),
                "gain": ("norm", 1, n, 1),
                "bias": ("bias", 1, n, 1),
                "logits": ("output", n, 1, forward),
            }.get(name, ("hidden", n, n, 1))
            assert found == expected, (layer, name)
    assert "bytes" in specs[names[0]] and "logits" in specs[names[-1]]


@BOTH
def test_the_bound_is_that_of_97_classes(family):
    assert FAMILIES[family]().loss_bound == pytest.approx(1.5 * math.log(97))


def test_initial_weights(key):
    """Unit variance of what is looked up, 1/fan_in of what is summed over."""
    task = FAMILIES["transformer"](width=256, depth=2)
    params, _ = quick(task.init)(key, task.data)
    expected = {
        "bytes": 1,
        "query": 1 / 256,
        "out": 1 / 256 / 4,
        "up": 1 / 256,
        "down": 1 / 1024 / 4,
        "logits": 0.01 / 256,
    }
    for layer in params.values():
        for name in layer.keys() & expected:
            variance = float(jnp.var(layer[name]))
            assert variance == pytest.approx(expected[name], rel=0.05), name
        if "gain" in layer:
            assert (layer["gain"] == 1).all()


def test_batches_are_windows_of_the_split_that_is_asked_for(key):
    task = FAMILIES["recurrent"](batch_size=7, sequence_length=20)
    sizes = {"train": 32, "meta": 32, "valid": 64, "test": 128}
    for split in SPLITS:
        blocks = [row.tobytes() for row in np.asarray(corpus("lopt")[split])]
        others = [
            row.tobytes()
            for other in SPLITS
            if other != split
            for row in np.asarray(corpus("lopt")[other])
        ]
        fixed = np.asarray(task.eval_batch(task.data, split))
        drawn = np.asarray(task.batch(key, task.data, split))
        assert fixed.shape == (sizes[split], 21) and drawn.shape == (7, 21)
        for window in (*fixed, *drawn):
            assert any(window.tobytes() in block for block in blocks)
        assert not all(any(w.tobytes() in b for b in others) for w in (*fixed, *drawn))


@BOTH
def test_prose_and_code_share_one_program(family):
    prose = FAMILIES[family](dataset="prose")
    code = FAMILIES[family](dataset="code", data_seed=3)
    for name in ("init", "batch", "eval_batch", "loss", "specs"):
        assert getattr(prose, name) is getattr(code, name)
    for split in SPLITS:
        assert prose.data[split].shape == code.data[split].shape
        assert not np.array_equal(prose.data[split], code.data[split])


def test_a_data_seed_redraws_all_splits_but_test():
    data = FAMILIES["recurrent"](data_seed=5).data
    for split in SPLITS:
        first = {row.tobytes() for row in np.asarray(corpus("lopt")[split])}
        redrawn = {row.tobytes() for row in np.asarray(data[split])}
        assert (redrawn == first) == (split == "test")


def test_names():
    transformer, recurrent = FAMILIES["transformer"], FAMILIES["recurrent"]
    assert transformer().name == "transformer-lopt-2x32"
    assert transformer(form="plain", data_seed=3).name.endswith("2x32-plain-data-3")
    assert recurrent(dataset="code").name == "gru-code-1x32"
    assert recurrent(cell="lstm", depth=2, width=8).name == "lstm-lopt-2x8"


def test_each_byte_alone_is_worth_3_4_nats():
    """What test_families asks of 500 steps is less."""
    counts = np.bincount(np.ravel(corpus("lopt")["train"]), minlength=NUM_CLASSES)
    shares = counts / counts.sum()
    windows = np.ravel(FAMILIES["recurrent"]().eval_batch(corpus("lopt"), "valid"))
    assert -np.log(shares[windows]).mean() == pytest.approx(3.4, abs=0.1)


@BOTH
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "`width` must be an integer of at least 1, got 0"),
        ({"width": 3.5}, "`width` must be an integer of at least 1, got 3.5"),
        ({"depth": 0}, "`depth` must be an integer of at least 1, got 0"),
        ({"depth": True}, "`depth` must be an integer of at least 1, got true"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1, got 0"),
        ({"base_width": 0}, "`base_width` must be an integer of at least 1, got 0"),
        ({"sequence_length": 0}, "`sequence_length` must be an integer from 1 to 1023"),
        ({"sequence_length": 1024}, "`sequence_length` must be an integer from 1 to"),
        ({"form": "sp"}, "`form` must be `mup` or `plain`, got 'sp'"),
        ({"dataset": "digits"}, "unknown corpus `digits`"),
        ({"data_seed": -1}, "`data_seed` must be an integer from 0 to 4294967295, got"),
        ({"data_seed": 2**32}, "`data_seed` must be an integer from 0 to 4294967295"),
    ],
)
def test_bad_options(unchecked_types, family, options, message):
    with pytest.raises(ConfigError) as error:
        FAMILIES[family](**options)
    assert str(error.value).startswith(message)
