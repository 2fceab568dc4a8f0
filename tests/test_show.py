"""What is shown of a policy is what it decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt import show
from lopt.checkpoint import Checkpoint
from lopt.errors import CheckpointError
from lopt.files.fileformat import Header
from lopt.optimizers import OPTIMIZERS
from lopt.options import resolved

STEPS = 20


def prior(tmp_path, **options):
    """`layerwise` as initialized: its policy is the stated prior."""
    factory = OPTIMIZERS["layerwise"]
    lopt = factory(**options)
    header = Header(optimizer="layerwise", options=resolved(factory, options))
    theta = lopt.init(jax.random.key(0))
    return Checkpoint(path=tmp_path, lopt=lopt, theta=theta, header=header)


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    found = prior(tmp_path_factory.mktemp("x"), bases=("adam", "sgd"), hidden_sizes=())
    theta = found.theta["network"]
    b0 = jnp.asarray([0.0, 0.0, jnp.log(2.0), 0.0])
    found.theta["network"] = {**theta, "b0": b0}
    return show.policy_curves(found, num_steps=STEPS)


def test_curves_are_the_policy(curves):
    """The prior's formula with its step size doubled, and the prior's mixture."""
    t = np.arange(STEPS)
    rate = 2 * 0.04 / (1 + t / 30) * (1 - 0.95 * t / STEPS)
    np.testing.assert_allclose(
        curves.step_size,
        np.broadcast_to(rate[:, None], curves.step_size.shape),
        rtol=1e-4,
    )
    adam = np.exp(2.0) / (np.exp(2.0) + 1)
    np.testing.assert_allclose(curves.mixture[..., 0], adam, rtol=1e-4)
    np.testing.assert_allclose(curves.mixture.sum(axis=-1), 1.0, rtol=1e-5)
    assert curves.bases == ("adam", "sgd")
    is_bias = np.array([role == "bias" for role in curves.roles])
    assert np.all((curves.weight_decay[-1] == 0) == is_bias)
    assert curves.losses[-1] < curves.losses[0]


def test_rows_name_roles_rates_and_bases(curves):
    table = {row[0]: row for row in show.rows(curves)}
    assert {"input", "hidden", "output", "bias"} == set(table)
    _, rates, course, mixture = table["hidden"]
    assert rates.startswith("0.08 → ")
    assert course[0] == "█" and course[-1] == "▁" and len(course) == 24
    assert mixture == "adam 88%, sgd 12%"


def test_picture_is_written(curves, tmp_path):
    show.write_picture(curves, tmp_path / "policy.png")
    assert (tmp_path / "policy.png").read_bytes().startswith(b"\x89PNG")
    drawing = show.figure(curves)
    first, *others = drawing.axes
    assert [line.get_label() for line in first.lines] == list(curves.roles)
    np.testing.assert_array_equal(first.lines[0].get_ydata(), curves.step_size[:, 0])
    assert len(others) == len(curves.roles)
    with pytest.raises(CheckpointError, match="cannot draw"):
        show.write_picture(curves, tmp_path / "policy.txt")
    with pytest.raises(CheckpointError, match="cannot write"):
        show.write_picture(curves, tmp_path / "absent" / "policy.png")


def test_specialized_optimizers_have_no_general_picture(tmp_path):
    found = prior(tmp_path, embedding_size=2, num_tensors=5)
    with pytest.raises(CheckpointError, match="no policy"):
        show.policy_curves(found)
