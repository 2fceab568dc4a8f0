"""What is shown of a policy is what it decides."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lopt import show
from lopt.checkpoint import Checkpoint, save_file
from lopt.cli import run
from lopt.errors import CheckpointError
from lopt.files.fileformat import Header
from lopt.optimizers import OPTIMIZERS
from lopt.optimizers.policy import LOGIT_GAIN
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
    # Logits of adam and sgd, of gradient and momentum, log λ, log ω.
    b0 = jnp.asarray([np.log(3.0) / LOGIT_GAIN, 0.0, 0.0, 0.0, jnp.log(2.0), 0.0])
    found.theta["network"] = {**theta, "b0": b0}
    return show.policy_curves(found, num_steps=STEPS)


def test_curves_are_the_policy(curves):
    """The prior's formulas with the step size doubled, and odds of 3 : 1."""
    t, policy = np.arange(STEPS), curves.policy
    rate = 2 * 0.015 / (1 + t / 1000) * (1 - 0.95 * t / STEPS)
    for tensor in range(len(curves.tensors)):
        np.testing.assert_allclose(policy.step_size[:, tensor], rate, rtol=1e-4)
    np.testing.assert_allclose(policy.mixture[..., 0], 0.75, rtol=1e-4)
    np.testing.assert_allclose(policy.blend[..., 0], 0.45, rtol=1e-4)
    assert curves.bases == ("adam", "sgd")
    decay = np.where(np.array(curves.roles) == "bias", 0.0, 4.5 * 10 ** (-1 / 4))
    np.testing.assert_allclose(policy.weight_decay, [decay] * STEPS, rtol=1e-4)
    assert curves.losses[-1] < curves.losses[0]


def test_tensors_are_by_role_and_in_the_order_of_the_network(curves):
    assert curves.tensors[:4] == ("layer_0/w", "layer_1/w", "layer_2/w", "layer_3/w")
    assert curves.tensors[4:] == ("layer_0/b", "layer_1/b", "layer_2/b", "layer_3/b")
    assert curves.roles == ("input", "hidden", "hidden", "output", *["bias"] * 4)


def test_decisions_stay_with_their_tensors(tmp_path):
    """The weight of the input \"aspect\" alone tells the matrices apart."""
    found = prior(tmp_path, hidden_sizes=())
    theta = found.theta["network"]
    found.theta["network"] = {**theta, "w0": theta["w0"].at[-1, -2].set(3.0)}
    policy = show.policy_curves(found, num_steps=2).policy
    into, between, _, out, *biases = np.log(policy.step_size[0] / 0.015)
    np.testing.assert_allclose([into, out], np.log([32 / 64, 10 / 32]), rtol=1e-3)
    np.testing.assert_allclose([between, *biases], 0.0, atol=1e-5)


def test_rows_name_roles_rates_and_bases(curves):
    table = {row[0]: row for row in show.rows(curves)}
    assert list(table) == ["input", "hidden", "output", "bias"]
    _, rates, course, decay, gradient, bases = table["hidden"]
    assert rates.startswith("0.03 → ")
    assert course[0] == "█" and course[-1] == "▁" and len(course) == 24
    assert decay == "2.5 → 2.5 → 2.5" and table["bias"][3] == "0 → 0 → 0"
    assert gradient == "0.45 → 0.45 → 0.45"
    assert bases == "adam 75%"


def test_preference_says_which_base_leads_when():
    first = np.array([0.9] * 4 + [0.2] * 6)
    words = show.preference(("muon", "adam"), np.stack([first, 1 - first], axis=1))
    assert words == "muon 90%, then adam 80% from step 4"
    restless = np.array([0.9, 0.1] * 10)
    words = show.preference(("muon", "adam"), np.stack([restless, 1 - restless], 1))
    assert words.startswith("by turns ") and "muon 50%" in words and "adam 50%" in words


def test_picture_is_written(curves, tmp_path):
    show.write_picture(curves, tmp_path / "policy.png")
    assert (tmp_path / "policy.png").read_bytes().startswith(b"\x89PNG")
    maps = [axes for axes in show.figure(curves).axes if axes.get_title()]
    titles = [axes.get_title().split()[-1] for axes in maps]
    assert titles == ["λ", "ω", "γ", "adam", "sgd"]
    policy = curves.policy
    drawn = np.log10(policy.step_size), policy.weight_decay, policy.blend[..., 0]
    for axes, values in zip(maps, (*drawn, *policy.mixture.T), strict=True):
        image = np.asarray(axes.images[0].get_array())
        expected = values if values.shape == image.shape else values.T
        np.testing.assert_array_equal(image, expected)
    labels = [label.get_text() for label in maps[0].get_yticklabels()]
    assert labels[0] == "input layer_0/w" and len(labels) == 8
    with pytest.raises(CheckpointError, match="cannot draw"):
        show.write_picture(curves, tmp_path / "policy.txt")
    with pytest.raises(CheckpointError, match="cannot write"):
        show.write_picture(curves, tmp_path / "absent" / "policy.png")


def test_specialized_optimizers_have_no_general_picture(tmp_path):
    found = prior(tmp_path, embedding_size=2, num_tensors=5)
    with pytest.raises(CheckpointError, match="no policy"):
        show.policy_curves(found)


def test_of_a_selection_the_number_of_candidates_is_shown(tmp_path, capsys):
    found = prior(tmp_path, embedding_size=2, num_tensors=5)
    scores = {f"step {i}": {"raw": -1.5} for i in range(37)}
    card = {"selection": {"score": -1.5, "candidates": scores}}
    file = tmp_path / "a.safetensors"
    save_file(replace(found, header=replace(found.header, card=card)), file)
    assert run(["show", str(file)]) == 0
    told = capsys.readouterr().out
    assert "step 3" not in told
    assert "37" in next(line for line in told.splitlines() if "candidates" in line)
