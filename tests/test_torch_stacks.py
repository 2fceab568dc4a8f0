"""A stack of tensors is updated as each of them alone."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

import torch_rules as fed  # noqa: E402

from lopt.specs import ParamSpec, spec_of_shape  # noqa: E402
from lopt.torch import features  # noqa: E402
from lopt.torch import packing as packed  # noqa: E402
from lopt.torch.packing import packing  # noqa: E402
from lopt.torch.rules import RULES  # noqa: E402

torch.set_num_threads(1)

SHAPES = [(6, 4), (5,), (6, 4), (), (0, 3), (2, 3, 2, 2), (5,), (), (6, 4), (2, 3, 2, 2)]
SHAPES += [(5,)]
OPTIONS = {
    "celo": {"hidden_size": 4},
    "nn_adam": {"hidden_size": 4},
    "rnn_mlp": {"hidden_size": 4, "hidden_sizes": (4,)},
    "velo": {"hidden_size": 4, "num_networks": 3},
}
FAST = ("adafac_mlp", "layerwise", "mlp", "nn_adam", "rnn_mlp", "velo")
CASES = [
    *(
        pytest.param(
            name, OPTIONS.get(name, {}), marks=[] if name in FAST else pytest.mark.slow
        )
        for name in RULES
    ),
    ("adafac_mlp", {"state_dtype": "bfloat16"}),
    ("celo2", {"axes": "last", "vectors": "learned"}),
    ("learnable_adam", {"per_role": True}),
]


def run(name, options, order, num_steps=3):
    """Updates and state of each tensor; they are given in this order.

    Sizes and roles differ.
    """
    rule = fed.rule_of(fed.made(name, **options), RULES[name], 9)
    generator = torch.Generator().manual_seed(0)

    def drawn():
        return [torch.randn(shape, generator=generator) for shape in SHAPES]

    params = [0.1 * (1 + i) * x for i, x in enumerate(drawn())]
    specs = [spec_of_shape(shape, 0) for shape in SHAPES]
    specs[2] = replace(specs[2], role="input", width_in=3)
    state, found = rule.init([params[i] for i in order], [specs[i] for i in order]), []
    for step in range(num_steps):
        grads = [0.01 * 3**i * x for i, x in enumerate(drawn())]
        given = [grads[i] for i in order], state, [params[i] for i in order]
        with torch.no_grad():
            updates = rule.update(*given, torch.tensor(1.0 / (1 + step)))
        found += [updates[order.index(i)] for i in range(len(SHAPES))]
    kept = [state.per_param[order.index(i)] for i in range(len(SHAPES))]
    return found, kept


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_stack_is_updated_as_each_of_its_tensors(name, options, monkeypatch):
    # Pieces are two of a stack's three vectors, and the third; two rows of a matrix.
    monkeypatch.setattr(features, "SMALL_PIECE", 10)
    order = list(range(len(SHAPES)))
    together, state = run(name, options, order)
    packed._packing.cache_clear()
    monkeypatch.undo()
    monkeypatch.setattr(packed, "STACK_BELOW", 0)
    alone, state_of_each = run(name, options, order[::-1])
    packed._packing.cache_clear()
    for a, b in zip(together, alone, strict=True):
        check(a, b)
    for one, other, shape in zip(state, state_of_each, SHAPES, strict=True):
        assert one.keys() == other.keys()
        for key, x in one.items():
            if 0 not in shape:  # means over nothing are no numbers
                check(x, other[key])


def check(a, b):
    """Equal to rounding."""
    assert b.isfinite().all()
    largest = b.float().abs().max().item() if b.numel() else 0.0
    tolerance = 0.01 if b.dtype == torch.bfloat16 else 2e-5
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * largest)


def test_stacks_are_of_one_kind_and_not_too_large(monkeypatch):
    monkeypatch.setattr(packed, "LARGEST_STACK", 50)
    monkeypatch.setattr(packed, "STACK_BELOW", 30)
    shapes = [(6, 4), (3,), (6, 4), (6, 4), (5, 6), (5, 6), (3,), (0, 2), (0, 2)]
    specs = [spec_of_shape(shape, 0) for shape in shapes]
    norm = ParamSpec(role="norm", shape=(3,), out_axes=(0,), depth=0.5)
    far = ParamSpec(role="bias", shape=(3,), out_axes=(0,), depth=1.0, num_layers=4)
    specs, shapes = (*specs, norm, far), [*shapes, (3,), (3,)]
    tensors = [torch.full(shape, float(i)) for i, shape in enumerate(shapes)]
    packed._packing.cache_clear()
    pack = packing(specs, tensors)
    packed._packing.cache_clear()
    assert set(pack.groups) == {(0, 2), (3,), (1, 6, 10), (4,), (5,), (7, 8), (9,)}
    stacks = pack.pack(tensors)
    targets = [torch.zeros(shape) for shape in shapes]
    for i, stack in enumerate(stacks):
        assert stack.shape[1:] == pack.group_specs[i].shape
        pack.store(i, stack, targets)
    for other in (targets, pack.unpack(stacks, tensors)):
        assert all(torch.equal(a, b) for a, b in zip(tensors, other, strict=True))
    alone = pack.groups.index((4,))
    assert stacks[alone].data_ptr() == tensors[4].data_ptr()
    places = pack.order([torch.tensor(i) for i in range(len(shapes))])
    assert places.tolist() == [i for group in pack.groups for i in group]
    assert [int(x) for x in pack.disorder(places)] == list(range(len(shapes)))
    for i, group in enumerate(pack.groups):
        assert places[pack.rows(i)].tolist() == list(group)
