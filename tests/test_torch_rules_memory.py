"""What a step of `adafac_mlp` allocates, and that its pieces make no difference."""

import itertools

import pytest

torch = pytest.importorskip("torch")

from lopt.specs import spec_of_shape  # noqa: E402
from lopt.torch import features  # noqa: E402
from lopt.torch.rules.adafac_mlp import adafac_mlp  # noqa: E402

torch.set_num_threads(1)


def theta(num_inputs=39, hidden=32):
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    sizes = [num_inputs, hidden, hidden, 2]
    layers = {}
    for i, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        layers |= {f"w{i}": drawn(n_out, n_in), f"b{i}": 0.1 * drawn(n_out)}
    offsets = {"momentum_decays": 3, "rms_decays": 1, "factored_decays": 3}
    return {"network": layers, **{k: 0.01 * drawn(n) for k, n in offsets.items()}}


def peak(function):
    """Bytes that are allocated at most while it runs, beyond those before."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        kept = function()
    now = highest = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            highest = max(highest, now)
    del kept
    return highest


SLOW = [
    pytest.param(shape, marks=pytest.mark.slow) for shape in [(490_000,), (2, 245_000)]
]


@pytest.mark.parametrize("shape", [(700, 700), *SLOW])
@torch.no_grad()
def test_a_step_takes_little_memory_beside_the_state(shape):
    rule = adafac_mlp(theta(), hidden_sizes=(32, 32))
    p, g = [torch.randn(shape)], [1e-3 * torch.randn(shape)]
    state = rule.init(p, [spec_of_shape(shape, 0)])
    rule.update(g, state, p, None)
    taken = peak(lambda: rule.update(g, state, p, None))
    assert 4 * p[0].numel() <= taken < 64 * p[0].numel()


@torch.no_grad()
def test_pieces_do_not_change_the_update(monkeypatch):
    shape = (5, 3, 7, 11)
    torch.manual_seed(0)
    p, g = [torch.randn(shape)], [torch.randn(shape)]
    found = []
    for size in (2**20, 60, 7):
        monkeypatch.setattr(features, "SMALL_PIECE", size)
        rule = adafac_mlp(theta(), hidden_sizes=(32, 32))
        state = rule.init(p, [spec_of_shape(shape, 0)])
        rule.update(g, state, p, None)
        found += rule.update(g, state, p, None)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-9)


def test_pieces_cover_a_tensor_once():
    for shape in [(), (7,), (3, 5), (2, 40), (4, 1, 6), (0, 3), (50, 1)]:
        for size in (1, 4, 9, 1000):
            seen = torch.zeros(shape)
            for piece in features._pieces(shape, size) if seen.numel() else []:
                assert seen[piece].is_contiguous()
                assert seen[piece].numel() <= size
                seen[piece] += 1
            assert bool((seen == 1).all())
