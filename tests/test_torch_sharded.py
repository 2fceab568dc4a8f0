"""Sharded parameters (FSDP2, DTensor) are updated as whole ones are: two processes."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as multiprocessing  # noqa: E402
import torch_files  # noqa: E402
from torch import nn  # noqa: E402

from lopt.torch.rules import RULES  # noqa: E402

torch.set_num_threads(1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 7), nn.LayerNorm(7), nn.Linear(7, 3)
    )


def train(model, x, y, num_steps=6):
    """Losses and weights; each process has its part of the examples."""
    from lopt.torch import LearnedOptimizer

    optimizer = LearnedOptimizer(model, "layerwise", num_steps=num_steps)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
    whole = [getattr(p, "full_tensor", lambda p=p: p)() for p in model.parameters()]
    return [p.detach() for p in whole], optimizer


def worker(rank, port, results):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    from lopt.torch import LearnedOptimizer

    x, y = data()
    own = slice(4 * rank, 4 * rank + 4)
    sharded = network()
    for layer in sharded:
        fully_shard(layer)
    fully_shard(sharded)
    weights, optimizer = train(sharded, x[own], y[own])
    optimizer.load_state_dict(optimizer.state_dict())
    momentum = optimizer.state[sharded[2].weight]["momentum_0"]
    parallel, _ = train(DistributedDataParallel(network()), x[own], y[own])
    bad = next(iter(sharded.parameters()))
    bad.grad = torch.zeros_like(bad)
    if rank == 1:
        bad.grad.to_local().fill_(torch.nan)
    try:
        LearnedOptimizer(sharded, "layerwise", num_steps=2).step(loss=1.0)
        message = ""
    except FloatingPointError as error:
        message = str(error)
    shards = tuple(momentum.to_local().shape), tuple(momentum.shape)
    results.put(
        (
            rank,
            [w.tolist() for w in weights],
            [w.tolist() for w in parallel],
            shards,
            message,
        )
    )
    dist.barrier()
    dist.destroy_process_group()


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 5, generator=generator), torch.randn(8, 3, generator=generator)


@pytest.mark.slow
def test_two_processes_do_what_one_does():
    expected, _ = train(network(), *data())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=worker, args=(rank, port, results)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    found = sorted(results.get(timeout=200) for _ in processes)
    for process in processes:
        process.join()
    for _, sharded, parallel, shards, _ in found:
        for weights in (sharded, parallel):
            for have, want in zip(weights, expected, strict=True):
                torch.testing.assert_close(torch.tensor(have), want, rtol=1e-4, atol=1e-5)
        assert shards[1] == (7, 7) and shards[0] in ((4, 7), (3, 7))
    assert found[0][1] == found[1][1]
    assert "in another process is not finite" in found[0][4]
    assert "`0.weight` is not finite" in found[1][4]


@pytest.mark.slow
def test_every_rule_updates_shards_as_whole_tensors_and_is_kept_in_checkpoints(tmp_path):
    torch_files.write_all(tmp_path)
    script = Path(__file__).with_name("torch_two_processes.py")
    found = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == list(RULES)
