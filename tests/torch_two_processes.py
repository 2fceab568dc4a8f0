"""Run by test_torch_rules_memory.py: updates of DTensors equal those of plain tensors."""

import sys

import torch
import torch.distributed as dist
from test_torch_rules_memory import theta
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from lopt.specs import spec_of_shape
from lopt.torch.rules import RULES

SHAPES = [(7, 5), (6, 6), (5, 3, 2, 4), (9,), (1,), (1, 4)]


def rules():
    yield "adafac_mlp", RULES["adafac_mlp"](theta(), hidden_sizes=(32, 32))
    layers = theta(num_inputs=30)["network"]
    layers["w2"], layers["b2"] = torch.randn(3, 32) / 6, torch.zeros(3)
    yield "celo2", RULES["celo2"]({"network": layers}, vectors="learned")
    yield "mlp", RULES["mlp"]({"network": theta(num_inputs=19)["network"]})


def work(rank, store):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    specs = [spec_of_shape(shape, 0) for shape in SHAPES]
    plain = [torch.randn(shape) for shape in SHAPES]
    grads = [[torch.randn(shape) for shape in SHAPES] for _ in range(3)]

    def shared(tensors):
        return [distribute_tensor(x, mesh, [Shard(0)]) for x in tensors]

    for name, rule in rules():
        p, q = plain, shared(plain)
        one, two = rule.init(p, specs), rule.init(q, specs)
        for g in grads:
            expected = rule.update(g, one, p, None)
            found = rule.update(shared(g), two, q, None)
            for shape, a, b in zip(SHAPES, expected, found, strict=True):
                assert b.placements == (Shard(0),), (name, shape)
                whole = b.full_tensor()
                largest = float(a.abs().max())
                message = f"{name} {shape}"
                assert torch.allclose(whole, a, rtol=0, atol=1e-5 * largest), message
        if rank == 0:
            print(name, flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    with torch.no_grad():
        if len(sys.argv) == 2:
            torch.multiprocessing.spawn(work, (sys.argv[1],), nprocs=2)
