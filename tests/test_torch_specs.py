"""Specs of torch's modules: roles, axes, places, widths."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from lopt.specs import spec_of_shape  # noqa: E402
from lopt.torch import LearnedOptimizer, param_specs  # noqa: E402

torch.set_num_threads(1)


class Net(nn.Module):
    """One of each kind."""

    def __init__(self, width=8):
        super().__init__()
        self.tokens = nn.Embedding(11, width)
        self.convolution = nn.Conv2d(3, width, 5)
        self.up = nn.ConvTranspose2d(width, 3, 2)
        self.hidden = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2, bias=False)
        self.gain = nn.Parameter(torch.ones(()))


AXES = {  # role, in_axes, out_axes, place in the row of five
    "tokens.weight": ("embedding", (0,), (1,), 0),
    "convolution.weight": ("hidden", (1, 2, 3), (0,), 1),
    "convolution.bias": ("bias", (), (0,), 1),
    "up.weight": ("hidden", (0, 2, 3), (1,), 2),
    "up.bias": ("bias", (), (0,), 2),
    "hidden.weight": ("hidden", (1,), (0,), 3),
    "hidden.bias": ("bias", (), (0,), 3),
    "norm.weight": ("norm", (), (0,), 3),
    "norm.bias": ("bias", (), (0,), 3),
    "head.weight": ("output", (1,), (0,), 4),
}


def test_modules_tell_roles_axes_and_places():
    specs = param_specs(Net())
    for name, (role, in_axes, out_axes, place) in AXES.items():
        found = specs[name]
        assert (found.role, found.in_axes, found.out_axes) == (role, in_axes, out_axes)
        assert (found.depth, found.num_layers) == (place / 4, 5), name
    assert specs["gain"].role == "scalar"
    assert specs["convolution.weight"].fan_in == 75


def test_the_first_and_the_last_matrix_are_input_and_output():
    specs = param_specs(nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)]))
    roles = [spec.role for spec in specs.values() if spec.is_matrix]
    assert roles == ["input", "hidden", "output"]


def test_names_tell_what_modules_would():
    net = Net()
    expected = param_specs(net)
    del expected["up.weight"]
    found = param_specs(net.named_parameters())
    found.pop("up.weight")
    expected["tokens.weight"] = found["tokens.weight"]  # no "emb" in its name
    assert found == expected
    named = [("wte.weight", torch.zeros(9, 4)), ("out.weight", torch.zeros(2, 4))]
    assert param_specs(named)["wte.weight"].role == "embedding"
    assert param_specs(named)["wte.weight"].out_axes == (1,)


def test_a_base_model_tells_widths():
    specs = param_specs(Net(32), base=Net(8), form="mup")
    widths = {name: (spec.width_in, spec.width_out) for name, spec in specs.items()}
    assert widths["hidden.weight"] == (4, 4)
    assert widths["head.weight"] == (4, 1)
    assert widths["convolution.weight"] == (1, 4)
    assert widths["tokens.weight"] == (1, 4)
    assert widths["norm.weight"] == (1, 4)
    roles = {name: spec.role for name, spec in specs.items()}
    assert roles["tokens.weight"] == "embedding"
    assert roles["norm.weight"] == "norm"
    assert roles["convolution.weight"] == "input"
    assert roles["up.weight"] == roles["head.weight"] == "output"
    assert specs["head.weight"].forward == 0.25
    assert specs["hidden.weight"].forward == 1.0
    assert param_specs(Net(32), base=Net(8))["head.weight"].forward == 1.0


def test_stated_roles_win():
    specs = param_specs(Net(), roles={"hidden.weight": "output"})
    assert specs["hidden.weight"].role == "output"


def test_models_that_differ_in_more_than_width():
    with pytest.raises(ValueError, match="only one of model and base has"):
        param_specs(Net(), base=nn.Linear(2, 2))
    other = Net()
    other.gain = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="the ranks must agree"):
        param_specs(Net(), base=other)


def test_bare_parameters_are_known_by_their_shapes_in_layouts_of_torch():
    net = Net()
    optimizer = LearnedOptimizer(net.parameters(), "layerwise", num_steps=9)
    expected = {p: spec_of_shape(tuple(p.shape), 0) for p in net.parameters()}
    assert optimizer._specs == expected
    assert expected[net.hidden.weight].out_axes == (0,)


def test_specs_that_are_given_are_used():
    net = nn.Linear(4, 4)
    wide = param_specs(nn.Linear(4, 4), base=nn.Linear(4, 1))

    def step(**specs):
        model = nn.Linear(4, 4, bias=False)
        model.load_state_dict({"weight": net.weight})
        model.weight.grad = torch.eye(4)
        optimizer = LearnedOptimizer(model, "layerwise", num_steps=9, **specs)
        optimizer.step(loss=1.0)
        return model.weight - net.weight

    assert not torch.allclose(step(), step(specs=wide))
