"""`reading`: the loss of trainers that call `step()` by themselves."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from lopt.torch import LearnedOptimizer  # noqa: E402


@pytest.fixture
def made():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, LearnedOptimizer(model, "layerwise", num_steps=20)


def trained(model, size):
    def training_step(factor):
        """Gradients of a loss, which is returned as trainers do."""
        loss = factor * model(torch.ones(size, 3)).square().mean()
        loss.backward()
        return loss.detach()

    return training_step


def seen(optimizer):
    """The loss of the first step, as the optimizer keeps it."""
    return next(iter(optimizer.state.values()))["log_loss"][0].exp().item()


def test_losses_add_up_as_gradients_do(made):
    model, optimizer = made
    other = copy.deepcopy(model)
    plain = LearnedOptimizer(other, "layerwise", num_steps=20)
    training_step = optimizer.reading(trained(model, 4))
    for _ in range(3):
        total = training_step(0.25) + training_step(0.75)
        optimizer.step()
        optimizer.zero_grad()
        loss = trained(other, 4)(1.0)
        plain.step(loss=loss)
        plain.zero_grad()
        torch.testing.assert_close(total, loss)
        expected = next(iter(plain.state.values()))["log_loss"]
        torch.testing.assert_close(
            next(iter(optimizer.state.values()))["log_loss"], expected
        )
    torch.testing.assert_close(model.weight, other.weight)


def test_it_does_what_it_did(made):
    model, optimizer = made
    step = trained(model, 4)
    read = optimizer.reading(step)
    assert read.__doc__ == step.__doc__
    assert read(factor=2.0) == 2.0 * optimizer.reading(step)(1.0)


def test_a_dict_has_the_loss(made):
    model, optimizer = made
    step = trained(model, 4)
    result = optimizer.reading(lambda: {"loss": step(1.0), "accuracy": 1.0})()
    assert result["accuracy"] == 1.0
    expected = model(torch.ones(4, 3)).square().mean().item()
    optimizer.step()
    assert seen(optimizer) == pytest.approx(expected, rel=1e-5)


def test_a_step_that_was_left_out_is_forgotten(made):
    model, optimizer = made
    training_step = optimizer.reading(trained(model, 4))
    training_step(100.0)
    model.zero_grad()
    loss = training_step(1.0)
    optimizer.step()
    assert seen(optimizer) == pytest.approx(loss.item(), rel=1e-5)


def test_a_loss_that_is_given_wins_and_none_is_used_twice(made):
    model, optimizer = made
    training_step = optimizer.reading(trained(model, 4))
    training_step(1.0)
    optimizer.step(loss=7.0)
    assert seen(optimizer) == pytest.approx(7.0, rel=1e-5)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TypeError, match=r"optimizer\.reading\(trainer\.training_step\)"):
        optimizer.step()
    assert torch.equal(before["weight"], model.weight)


@pytest.mark.parametrize("result", [None, torch.ones(2)])
def test_what_is_no_loss(made, result):
    _, optimizer = made
    with pytest.raises((TypeError, ValueError), match="loss"):
        optimizer.reading(lambda: result)()


def test_a_copy_of_the_optimizer_has_it_too(made):
    model, optimizer = made
    optimizer.reading(trained(model, 4))(1.0)
    other, copied = copy.deepcopy((model, optimizer))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        q.grad = p.grad.clone()  # which torch does not copy
    copied.step()
    optimizer.step()
    assert seen(copied) == seen(optimizer)
