"""Files whose weights or options torch cannot use are told in one line, by name."""

import inspect

import pytest

torch = pytest.importorskip("torch")

import jax  # noqa: E402

from lopt.errors import CheckpointError  # noqa: E402
from lopt.files.fileformat import flatten  # noqa: E402
from lopt.optimizers import OPTIMIZERS  # noqa: E402
from lopt.torch.rules import RULES, built  # noqa: E402

torch.set_num_threads(1)


def nested(flat):
    theta = {}
    for key, x in flat.items():
        *path, last = key.split("/")
        place = theta
        for part in path:
            place = place.setdefault(part, {})
        place[last] = x
    return theta


def weights(name, **options):
    """Weights of the right shapes, flat."""
    theta = jax.eval_shape(OPTIMIZERS[name](**options).init, jax.random.key(0))
    return {key: torch.ones(x.shape) for key, x in flatten(theta).items()}


def refused(name, flat, options, message):
    with pytest.raises(CheckpointError) as caught:
        built(name, nested(flat), options, 5)
    assert message in caught.value.message and "\n" not in caught.value.message
    assert caught.value.message.startswith(("the weights", f"`{name}` in torch: "))


@pytest.mark.parametrize("name", RULES)
def test_weights_that_do_not_fit(name):
    flat = weights(name)
    built(name, nested(flat), {}, 5)
    for key, x in flat.items():
        others = {k: v for k, v in flat.items() if k != key}
        refused(name, others, {}, f"it lacks `{key}`")
        refused(name, {**others, key: x[None]}, {}, f"`{key}` must be float32")
        refused(name, {**others, key: x.double()}, {}, "got float64")
    refused(name, {**flat, "more": torch.ones(1)}, {}, "`more` is unknown")


@pytest.mark.parametrize("name", RULES)
def test_options_of_another_type(name):
    options = inspect.signature(RULES[name]).parameters.keys() - {"theta", "num_steps"}
    flat = weights(name)
    for option in options:
        refused(name, flat, {option: "nonsense"}, f"`optimizer.{option}` must be ")
    refused(name, flat, {"nobody": 1}, "unknown key of `optimizer` `nobody`")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adafac_mlp", {"step_mult": -1.0}),
        ("adafac_mlp", {"eps": 0.0}),
        ("adafac_mlp", {"rms_decays": [0.9, 0.99]}),
        ("adafac_mlp", {"momentum_decays": [0.9, 0.99, 1.0]}),
        ("celo", {"phase": 3}),
        ("celo", {"exp_mult": 0.0}),
        ("celo2", {"learning_rate": 0.0}),
        ("celo2", {"weight_decay": -0.1}),
        ("celo2", {"factored_decays": [0.9, 0.9]}),
        ("celo2", {"rms_decays": [-0.9]}),
        ("layerwise", {"momenta": [1.0]}),
        ("layerwise", {"prior_blend": [1.0]}),
        ("layerwise", {"final": -1.0}),
        ("learnable_adam", {"eps_root": -1.0}),
        ("mlp", {"decays": [1.5] * 6}),
        ("mlp", {"eps": -1.0}),
        ("mup_adafac", {"clip_norm": -1.0}),
        ("rnn_mlp", {"exp_mult": 0.0}),
        ("rnn_mlp", {"decays": [2.0] * 5}),
        ("velo", {"loss_horizon": 5}),
    ],
)
def test_options_out_of_range(name, options):
    (option,) = options
    refused(name, weights(name), options, f"`optimizer.{option}` must ")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adafac_mlp", {"hidden_sizes": [3, 5, 7], "rms_decays": [0.9, 0.99, 0.999]}),
        ("celo", {"num_networks": 3, "hidden_size": 5}),
        ("celo2", {"momentum_decays": [0.9], "factored_decays": [0.9]}),
        (
            "layerwise",
            {"momenta": [0.5, 0.9], "prior_blend": [1, 1, 1], "hidden_sizes": []},
        ),
        ("learnable_sgdm", {"per_role": True}),
        ("mlp", {"decays": [0.5], "hidden_sizes": []}),
        ("nn_adam", {"hidden_size": 3}),
        ("rnn_mlp", {"from_mlp": 2, "from_lstm": 3, "lstm_to_mlp": 4, "decays": [0.5]}),
        ("velo", {"num_networks": 2, "hidden_size": 3, "hidden_sizes": [2]}),
    ],
)
def test_weights_of_other_options_fit_these_alone(name, options):
    flat = weights(name, **options)
    built(name, nested(flat), options, 5)
    refused(name, flat, {}, "`")
