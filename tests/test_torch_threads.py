"""Pieces of tensors by several threads: the same numbers, and nobody else is slowed."""

import pytest

torch = pytest.importorskip("torch")

from test_torch_rules_memory import theta  # noqa: E402

from lopt.specs import spec_of_shape  # noqa: E402
from lopt.torch import features, threads  # noqa: E402
from lopt.torch.rules.adafac_mlp import adafac_mlp  # noqa: E402


@pytest.fixture(params=[1, 2, 3])
def count(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def updated(shape):
    rule = adafac_mlp(theta(hidden=4), hidden_sizes=(4, 4))
    generator = torch.Generator().manual_seed(0)
    p, g = (torch.randn(shape, generator=generator) for _ in range(2))
    p.requires_grad_()
    state = rule.init([p], [spec_of_shape(shape, 0)])
    with torch.no_grad():
        (found,) = rule.update([g], state, [p], None)
    assert not found.requires_grad
    return found, state.per_param[0]


def test_results_do_not_depend_on_their_number(count):
    update, state = updated((300, 301))
    torch.set_num_threads(1)
    expected, state_of_one = updated((300, 301))
    assert torch.equal(update, expected)
    assert all(torch.equal(state[name], x) for name, x in state_of_one.items())


def test_each_works_alone_and_others_keep_their_number(count):
    x = torch.zeros(5 * features.SMALL_PIECE + 3)
    pieces = list(features.pieces(x))
    made = []

    def begin():
        made.append(torch.get_num_threads())
        return lambda piece: (piece, torch.get_num_threads(), torch.is_grad_enabled())

    found = threads.over_pieces(x, begin)
    assert found == [(piece, 1, False) for piece in pieces]
    assert made == [1] * count
    assert torch.get_num_threads() == count


def test_an_exception_is_raised_where_it_was_called(count):
    def fail(piece):
        raise FloatingPointError("no")

    with pytest.raises(FloatingPointError, match="no"):
        threads.over_pieces(torch.zeros(3 * features.SMALL_PIECE), lambda: fail)


def test_nothing_is_made_of_no_elements():
    assert threads.over_pieces(torch.zeros(0, 3), lambda: lambda piece: piece) == []
