"""Run by test_torch_sharded.py: every rule updates FSDP2's shards as whole tensors."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint.state_dict as tools
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor

from lopt.torch import LearnedOptimizer

NUM_STEPS = 4
EACH = {
    *("momenta", "second_moments", "full", "trace", "mu", "nu", "momentum"),
    *("second_moment", "momentum_0", "1_adam_second_moment"),
}
"""Names of states that have an entry, or several, for each of a parameter."""


class Net(nn.Module):
    """Axes that two processes share unequally, or that one of them has alone."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.convolution = nn.Conv2d(3, 5, (2, 4))
        self.embedding = nn.Embedding(9, 6)
        self.norm = nn.LayerNorm(7)
        self.hidden = nn.Linear(6, 6, bias=False)
        self.last = nn.Linear(4, 1)


def networks():
    """The same one, whole and sharded."""
    torch.manual_seed(0)
    plain, sharded = Net(), Net()
    sharded.load_state_dict(plain.state_dict())
    return plain, fully_shard(sharded)


def gradients(num_steps):
    generator = torch.Generator().manual_seed(1)
    for t in range(num_steps):
        sizes = 10.0 ** -torch.arange(3.0)
        yield (
            [
                sizes[i % 3] * torch.randn(p.shape, generator=generator)
                for i, p in enumerate(Net().parameters())
            ],
            2.0 * 0.9**t,
        )


def step(model, optimizer, grads, loss):
    """The change of each parameter, whole."""
    for p, g in zip(model.parameters(), grads, strict=True):
        p.grad = g
        if hasattr(p, "device_mesh"):
            p.grad = distribute_tensor(g, p.device_mesh, p.placements)
    before = [whole(p) for p in model.parameters()]
    optimizer.step(loss=loss)
    return [whole(p) - x for p, x in zip(model.parameters(), before, strict=True)]


def whole(x):
    return getattr(x.detach(), "full_tensor", x.detach)().clone()


def check_updates(name, path):
    """The sharded model, its optimizer and gradients, which were checked to the last."""
    plain, sharded = networks()
    one, two = (LearnedOptimizer(m, path, num_steps=9) for m in (plain, sharded))
    *steps, last = gradients(NUM_STEPS)
    for grads, loss in steps:
        expected, found = (
            step(m, o, grads, loss) for m, o in ((plain, one), (sharded, two))
        )
        for (key, p), a, b in zip(plain.named_parameters(), expected, found, strict=True):
            # Of the parameters' sums, whose rounding the differences have, too.
            atol = 1e-5 * a.abs().max().item() + 1e-7 * p.abs().max().item()
            assert torch.allclose(a, b, rtol=0, atol=atol), (name, key, a - b)
    num_spread = 0
    for p, q in zip(plain.parameters(), sharded.parameters(), strict=True):
        num_spread += check_state(name, one.state[p], two.state[q], q)
    assert num_spread or name == "learnable_sgd"
    return sharded, two, last


def check_state(name, expected, found, p):
    """How many states have an entry for each of the parameter's: spread as it is."""
    assert expected.keys() == found.keys()
    num = 0
    for key, x in expected.items():
        axis = x.dim() - p.dim()
        if key in EACH and axis >= 0 and x.shape[axis:] == p.shape:
            assert [s.dim for s in found[key].placements] == [axis], (name, key)
            own = found[key].to_local().shape[axis]
            assert own == p.to_local().shape[0], (name, key)
            num += 1
    return num


def check_checkpoint(name, path, model, optimizer, last, options):
    """What torch's tools saved goes on where it was, in another model and optimizer."""
    _, other = networks()
    for p, q in zip(other.parameters(), model.parameters(), strict=True):
        p.data.copy_(q.data)
    saved = tools.get_optimizer_state_dict(model, optimizer, options=options)
    loaded = LearnedOptimizer(other, path, num_steps=9)
    tools.set_optimizer_state_dict(other, loaded, saved, options=options)
    expected = step(model, optimizer, *last)
    found = step(other, loaded, *last)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b), (name, options)


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    for path in sorted(Path(folder).glob("*.safetensors")):
        model, optimizer, last = check_updates(path.stem, path)
        is_full = len(path.stem) % 2 == 0
        options = tools.StateDictOptions(full_state_dict=is_full)
        check_checkpoint(path.stem, path, model, optimizer, last, options)
        if rank == 0:
            print(path.stem, flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(work, (sys.argv[1],), nprocs=2)
