"""`lopt.torch.LearnedOptimizer` is an optimizer of torch like any other."""

import copy
import io
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

import torch.distributed.checkpoint.state_dict as tools  # noqa: E402
from torch import nn  # noqa: E402

from lopt.torch import LearnedOptimizer  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def network():
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.LayerNorm(16), nn.Linear(16, 1))


def made(model=None, **options):
    model = network() if model is None else model
    return model, LearnedOptimizer(model, "layerwise", num_steps=60, **options)


def loss_of(model, dtype=torch.float32):
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    return ((model(x) - x[:, :1] * x[:, 1:2]) ** 2).mean()


def train(model, optimizer, num_steps, **how):
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = loss_of(model, **how)
        loss.backward()
        optimizer.step(loss=loss)
    return loss.item()


def values(model):
    return [p.detach().clone() for p in model.parameters()]


def same(xs, ys):
    return all(torch.equal(x, y) for x, y in zip(xs, ys, strict=True))


def test_it_trains():
    model, optimizer = made()
    start = loss_of(model).item()
    assert train(model, optimizer, 60) < start / 5


def test_jax_is_not_imported():
    program = """
import sys, torch
from lopt.torch import LearnedOptimizer
model = torch.nn.Linear(3, 2)
optimizer = LearnedOptimizer(model, "layerwise", num_steps=10)
loss = model(torch.ones(1, 3)).square().sum()
loss.backward()
optimizer.step(loss=loss)
print({"jax", "optax", "orbax"} & set(sys.modules))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_a_closure_does_what_a_loss_does():
    (one, by_loss), (other, by_closure) = made(), made()
    other.load_state_dict(one.state_dict())
    train(one, by_loss, 3)

    def closure():
        by_closure.zero_grad()
        loss = loss_of(other)
        loss.backward()
        return loss

    returned = [by_closure.step(closure) for _ in range(3)]
    assert same(values(one), values(other))
    assert returned[0] > returned[-1]


def test_a_group_has_its_own_rate_and_decay():
    model, _ = made()
    slow, rest = [model[0].weight], [*model[2].parameters(), *model[3].parameters()]
    other = copy.deepcopy(model)
    groups = [
        {"params": slow, "lr": 0.25, "weight_decay": 0.5},
        {"params": rest},
    ]
    plain = LearnedOptimizer(
        [other[0].weight, *other[2].parameters(), *other[3].parameters()],
        "layerwise",
        num_steps=60,
    )
    grouped = LearnedOptimizer(groups, "layerwise", num_steps=60)
    before = values(model)
    train(other, plain, 1)
    train(model, grouped, 1)
    step = other[0].weight - before[0]
    want = before[0] + 0.25 * (step - 0.5 * before[0])
    torch.testing.assert_close(model[0].weight, want)
    torch.testing.assert_close(model[3].weight, other[3].weight)
    assert torch.equal(model[0].bias, before[1])


def test_a_scheduler_sets_the_rate():
    model, optimizer = made()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: float(t == 0))
    train(model, optimizer, 1)
    scheduler.step()
    before = values(model)
    train(model, optimizer, 1)
    assert same(before, values(model))
    assert optimizer.param_groups[0]["lr"] == 0.0


def test_a_saved_state_continues_bit_for_bit():
    model, optimizer = made()
    train(model, optimizer, 5)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    train(model, optimizer, 5)
    file.seek(0)
    again, loaded = made()
    weights, state = torch.load(file, weights_only=True)
    again.load_state_dict(weights)
    loaded.load_state_dict(state)
    train(again, loaded, 5)
    assert same(values(model), values(again))


def test_a_loaded_state_is_a_copy():
    model, optimizer = made()
    train(model, optimizer, 2)
    saved = optimizer.state_dict()
    _, other = made(model)
    other.load_state_dict(saved)
    before = copy.deepcopy(saved)
    train(model, other, 1)
    for i, kept in before["state"].items():
        for key, x in kept.items():
            assert torch.equal(x, saved["state"][i][key]), (i, key)


def test_before_the_first_step_there_is_a_state_dict_too():
    model, optimizer = made(lr=0.5)
    _, other = made(model)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == 0.5
    train(model, other, 1)


@pytest.mark.parametrize("is_flat", [False, True])
def test_tools_for_checkpoints_of_torch(is_flat):
    options = tools.StateDictOptions(flatten_optimizer_state_dict=is_flat)
    model, optimizer = made()
    train(model, optimizer, 3)
    saved = copy.deepcopy(
        tools.get_optimizer_state_dict(model, optimizer, options=options)
    )
    other, loaded = made(lr=0.5)
    other.load_state_dict(model.state_dict())
    before = values(other)
    tools.set_optimizer_state_dict(other, loaded, saved, options=options)
    assert same(before, values(other))
    assert loaded.param_groups[0]["lr"] == 1.0
    train(model, optimizer, 2)
    train(other, loaded, 2)
    assert same(values(model), values(other))


def test_what_all_parameters_share_is_one_thing():
    model, optimizer = made()
    train(model, optimizer, 2)
    model[0].weight.requires_grad_(False)
    model[0].weight.grad = None
    loaded = made(model)[1]
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, loaded, 3)
    for kept in loaded.state.values():
        assert int(kept["step"]) == 5 and not kept["is_new"]
        assert kept["log_loss"] is loaded.state[model[0].bias]["log_loss"]


def test_a_copy_goes_on_alike():
    model, optimizer = made()
    train(model, optimizer, 2)
    other, copied = copy.deepcopy((model, optimizer))
    train(model, optimizer, 2)
    train(other, copied, 2)
    assert same(values(model), values(other))


def test_bfloat16_parameters_have_a_float32_state():
    model, optimizer = made(network().to(torch.bfloat16))
    start = loss_of(model, torch.bfloat16).item()
    assert train(model, optimizer, 60, dtype=torch.bfloat16) < start / 2
    _, other = made(model)
    other.load_state_dict(optimizer.state_dict())
    kept = other.state[model[0].weight]
    assert model[0].weight.dtype == torch.bfloat16
    assert kept["momentum_0"].dtype == kept["1_adam_second_moment"].dtype == torch.float32
    assert torch.equal(kept["momentum_0"], optimizer.state[model[0].weight]["momentum_0"])


def test_a_grad_scaler_leaves_out_what_overflows():
    model, optimizer = made()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    other, plain = made()
    other.load_state_dict(model.state_dict())
    loss = loss_of(model)
    scaler.scale(loss).backward()
    scaler.step(optimizer, loss=loss.detach())
    scaler.update()
    train(other, plain, 1)
    for x, y in zip(values(model), values(other), strict=True):
        torch.testing.assert_close(x, y)
    before = values(model)
    model[0].weight.grad.fill_(torch.inf)
    scaler.unscale_(optimizer)
    scaler.step(optimizer, loss=loss.detach())
    assert same(before, values(model))


def test_autocast_around_the_step_changes_nothing():
    (one, plain), (other, cast) = made(), made()
    other.load_state_dict(one.state_dict())
    train(one, plain, 1)
    loss = loss_of(other)
    loss.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast.step(loss=loss)
    assert same(values(one), values(other))


def test_parameters_without_gradients_stay():
    model, optimizer = made()
    model[0].weight.requires_grad_(False)
    unused = nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [("unused", unused)]})
    before = values(model)
    train(model, optimizer, 2)
    assert torch.equal(before[0], model[0].weight)
    assert not torch.equal(before[1], model[0].bias)
    assert torch.equal(unused, torch.ones(2))
    model[0].weight.requires_grad_(True)
    assert train(model, optimizer, 40) < loss_of(network()).item() / 2
    assert not torch.equal(before[0], model[0].weight)


def test_no_gradient_at_all_is_no_step():
    _, optimizer = made()
    optimizer.step(loss=1.0)
    assert not optimizer.state


def test_parameters_may_be_added_and_scalars_trained():
    model, optimizer = made()
    train(model, optimizer, 2)
    gain = nn.Parameter(torch.tensor(3.0))
    optimizer.add_param_group({"params": [("gain", gain)], "lr": 2.0})
    for _ in range(40):
        optimizer.zero_grad()
        loss = loss_of(model) + (gain - 1.0) ** 2
        loss.backward()
        optimizer.step(loss=loss)
    assert gain.item() < 2.5
    assert optimizer.param_groups[1]["param_names"] == ["gain"]


def test_tensors_of_one_shape_are_updated_as_alone():
    torch.manual_seed(3)
    many = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(3))
    grads = [torch.randn(4, 4) for _ in many]

    def one_step(params):
        optimizer = LearnedOptimizer(params, "layerwise", num_steps=60)
        for p, g in zip(params, grads, strict=False):
            p.grad = g
        optimizer.step(loss=1.0)
        return params[0].detach().clone()

    alone = one_step(list(copy.deepcopy(many[0]).parameters()))
    torch.testing.assert_close(one_step(list(many.parameters())), alone)
