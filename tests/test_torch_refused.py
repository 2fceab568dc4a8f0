"""What is wrong is told in one exception, before anything changes."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from lopt.errors import CheckpointError, ConfigError  # noqa: E402
from lopt.files import fileformat  # noqa: E402
from lopt.files.fileformat import Header  # noqa: E402
from lopt.torch import LearnedOptimizer, param_specs  # noqa: E402

torch.set_num_threads(1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def stepped(num_steps=1, **options):
    """A model with gradients, and its optimizer after some steps."""
    model = network()
    optimizer = LearnedOptimizer(model, "layerwise", num_steps=9, **options)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    for _ in range(num_steps):
        optimizer.step(loss=1.0)
    return model, optimizer


def refuses(model, optimizer, error, message, loss=1.0):
    """The step raises, and changes neither parameters nor state."""
    before = copy.deepcopy((model.state_dict(), dict(optimizer.state)))
    with pytest.raises(error, match=message) as caught:
        optimizer.step(loss=loss)
    assert "\n" not in str(caught.value)
    weights, state = before
    for name, x in model.state_dict().items():
        assert torch.equal(x, weights[name])
    assert len(state) == len(optimizer.state)
    for kept, now in zip(state.values(), optimizer.state.values(), strict=True):
        for key in kept:
            assert torch.equal(kept[key], now[key]), key


@pytest.mark.parametrize("num_steps", [0, 2])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_gradients_that_are_not_finite(num_steps, bad):
    model, optimizer = stepped(num_steps)
    model[1].weight.grad[0, 0] = bad
    refuses(model, optimizer, FloatingPointError, "`1.weight` is not finite")


def test_gradients_are_not_looked_at_where_that_is_not_wanted():
    model, optimizer = stepped(check_finite=False)
    model[1].weight.grad[0, 0] = torch.nan
    optimizer.step(loss=1.0)
    assert torch.isnan(model[1].weight).any()
    assert not torch.isnan(model[0].weight).any()


def test_a_loss_that_is_missing_or_no_number():
    model, optimizer = stepped()
    refuses(model, optimizer, TypeError, r"call `step\(loss=loss\)`", loss=None)
    refuses(model, optimizer, ValueError, r"got shape \[2\]", loss=torch.ones(2))


def test_sparse_gradients():
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True))
    optimizer = LearnedOptimizer(model, "layerwise", num_steps=9)
    model(torch.tensor([1, 2])).sum().backward()
    refuses(model, optimizer, TypeError, "gradient of `0.weight` must be dense")


def test_a_shape_that_has_changed():
    model, optimizer = stepped()
    model[0].bias.data = torch.zeros(7)
    model[0].bias.grad = torch.zeros(7)
    refuses(model, optimizer, ValueError, r"`0.bias` has shape \[7\], not \[4\]")


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.complex64, "complex64"), (torch.int32, "int32")]
)
def test_parameters_that_are_not_real(dtype, kind):
    p = nn.Parameter(torch.zeros(3, dtype=dtype), requires_grad=False)
    with pytest.raises(TypeError, match=f"`spin` must be real, got torch.{kind}"):
        LearnedOptimizer([("spin", p)], "layerwise", num_steps=9)
    _, optimizer = stepped()
    with pytest.raises(TypeError, match="must be real"):
        optimizer.add_param_group({"params": [("spin", p)]})
    assert len(optimizer.param_groups) == 1
    optimizer.step(loss=1.0)


@pytest.mark.parametrize("params", [[], nn.ReLU()])
def test_a_model_without_parameters(params):
    with pytest.raises(ValueError, match="got no parameters"):
        LearnedOptimizer(params, "layerwise", num_steps=9)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_steps": None}, TypeError, "needs `num_steps`"),
        ({"num_steps": 0}, ValueError, "`num_steps` must be at least 1, got 0"),
        ({"lr": -1.0}, ValueError, "`lr` must not be negative"),
        ({"weight_decay": -0.1}, ValueError, "`weight_decay` must not be negative"),
        ({"specs": {}}, ValueError, "`specs` lack the parameter `0.weight`"),
    ],
)
def test_arguments(options, error, message):
    with pytest.raises(error, match=message):
        LearnedOptimizer(network(), "layerwise", **{"num_steps": 9, **options})


def test_specs_of_another_model_or_for_parameters_without_names():
    other = param_specs(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)))
    with pytest.raises(ValueError, match=r"`0.weight` has shape \[5, 3\]"):
        LearnedOptimizer(network(), "layerwise", num_steps=9, specs=other)
    with pytest.raises(ValueError, match="by name"):
        LearnedOptimizer(network().parameters(), "layerwise", num_steps=9, specs=other)


def broken(state, change):
    state = copy.deepcopy(state)
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: (s.pop("lopt"), s.update(state={})), "not of a learned optimizer"),
        (lambda s: s["lopt"].update(version=9), "has version 9, this lopt reads 1"),
        (lambda s: s["lopt"].update(optimizer="velo"), "is of `velo`, the optimizer is"),
        (lambda s: s["param_groups"].append(s["param_groups"][0]), "groups of"),
        (lambda s: s["state"][1].pop("momentum_0"), "lacks `momentum_0` of `0.bias`"),
        (lambda s: s["state"][1].update(x=1), "has an unknown `x` of `0.bias`"),
        (
            lambda s: s["state"][0].update(momentum_0=torch.zeros(2, 2)),
            r"`momentum_0` of `0.weight` has shape \[2, 2\], not \[4, 3\]",
        ),
        (lambda s: s["state"][1].pop("step"), "lacks `step` of `0.bias`"),
        (lambda s: s["state"].update(x={}), "has a state of `x`, which is unknown"),
    ],
)
def test_state_dicts_that_do_not_fit(change, message):
    _, optimizer = stepped(2)
    state = broken(optimizer.state_dict(), change)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert str(after) == str(before)
    optimizer.step(loss=1.0)


def test_the_state_dict_of_adam():
    model, optimizer = stepped()
    adam = torch.optim.Adam(model.parameters())
    adam.step()
    with pytest.raises(ValueError, match="lacks `1_adam_second_moment` of"):
        optimizer.load_state_dict(adam.state_dict())


def test_files_that_torch_cannot_use(tmp_path):
    def written(name, options, tensors):
        path = tmp_path / "x.safetensors"
        header = Header(optimizer=name, options=options)
        fileformat.write(path, tensors, header, overwrite=True)
        return path

    def opened(*args):
        return LearnedOptimizer(network(), written(*args), num_steps=9)

    weights = {"network/w0": np.zeros((2, 2), np.float32)}
    with pytest.raises(CheckpointError, match=r"Python file `mine.py:make`"):
        opened("mine.py:make", {}, weights)
    with pytest.raises(CheckpointError, match=r"unknown optimizer in torch.*`nobody`"):
        opened("nobody", {}, weights)
    with pytest.raises(CheckpointError, match="unknown key of `optimizer` `frobs`"):
        opened("layerwise", {"frobs": 3}, weights)
    with pytest.raises(CheckpointError, match="weights do not fit"):
        opened("layerwise", {}, weights)
    with pytest.raises(CheckpointError, match="is a folder, not an exported file"):
        LearnedOptimizer(network(), tmp_path, num_steps=9)
    with pytest.raises(ConfigError, match=r"unknown parameter `0.wait`"):
        param_specs(network(), roles={"0.wait": "input"})
