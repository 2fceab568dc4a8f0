"""The standalone file for torch: updates to the bit, with neither lopt nor jax."""

import subprocess
import sys

import pytest
from exported import made
from test_export_python import VARIANTS, check_ruff, data_lines, environment

from lopt.checkpoint import read, save_file
from lopt.cli import run
from lopt.export import python

torch = pytest.importorskip("torch")

ALONE = """
import importlib.util, sys
from pathlib import Path

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lopt", "jax", "jaxlib", "optax"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
import torch

torch.set_num_threads(1)
folder = Path(sys.argv[1])
exec((folder / "loop.txt").read_text())
for file in sorted(folder.glob("*.py")):
    spec = importlib.util.spec_from_file_location("alone", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.save(trained(module.load), file.with_suffix(".pt"))
"""

LOOP = """
def trained(load):
    '''Parameters after three steps, saved and continued after the second.'''
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 2), torch.nn.Flatten(), torch.nn.LayerNorm(12),
        torch.nn.Linear(12, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6),
        torch.nn.Linear(6, 2),
    )
    x, found = torch.randn(4, 2, 3, 3), []
    optimizer = load(model, num_steps=6)
    for i in range(3):
        if i == 2:
            saved = optimizer.state_dict()
            optimizer = load(model, num_steps=6, lr=0.5, weight_decay=0.1)
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({**saved, "param_groups": groups})
        optimizer.zero_grad()
        loss = (model(x) - 1.0).square().mean()
        loss.backward()
        optimizer.step(loss=loss)
        found.append([p.detach().clone() for p in model.parameters()])
    return found
"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def checkpoint_of(label):
    name, options = VARIANTS[label]
    if "embedding_size" in options:
        options = {**options, "num_tensors": 10}
    return made(name, **options)


def check_alone(folder, labels):
    """Files run without lopt do what `LearnedOptimizer` does."""
    from lopt.torch import LearnedOptimizer

    (folder / "loop.txt").write_text(LOOP)
    for label in labels:
        found = read("layerwise") if label == "released" else checkpoint_of(label)
        (folder / f"{label}.py").write_text(python.source(found, "torch"))
        save_file(found, folder / f"{label}.safetensors")
    command = [sys.executable, "-c", ALONE, str(folder)]
    subprocess.run(command, check=True, cwd=folder, env=environment())
    names = {"torch": torch}
    exec(LOOP, names)
    for label in labels:
        file = folder / f"{label}.safetensors"
        want = names["trained"](lambda m, f=file, **o: LearnedOptimizer(m, f, **o))
        got = torch.load(folder / f"{label}.pt", weights_only=True)
        for step, (ours, theirs) in enumerate(zip(got, want, strict=True)):
            for p, q in zip(ours, theirs, strict=True):
                assert torch.equal(p, q), (label, step)
        assert not torch.equal(want[0][0], want[1][0]), label
    check_ruff(folder)


def test_the_same_updates_without_lopt_and_jax(tmp_path):
    check_alone(tmp_path, ["released", "all bases", "by role"])


def test_the_released_layerwise_is_small():
    text = python.source(read("layerwise"), "torch")
    assert len(text.encode()) <= 100_000
    assert len(text.splitlines()) - data_lines(text) <= 690
    for absent in ("shampoo", "check_theta", "import lopt", "from lopt", "jax", "numpy"):
        assert absent not in text.partition("\nWEIGHTS")[2], absent
    assert "jax" not in text.partition("HEADER")[0]


def test_what_is_left_out_is_still_told(tmp_path):
    names = {"__name__": "alone"}
    exec(python.source(read("layerwise"), "torch"), names)
    model = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match="needs `num_steps`"):
        names["load"](model)
    optimizer = names["load"](model, num_steps=5)
    model(torch.ones(1, 2)).sum().backward()
    with pytest.raises(TypeError, match=r"step\(loss=loss\)"):
        optimizer.step()
    model.weight.grad[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="of `weight` is not finite"):
        optimizer.step(loss=1.0)


def test_the_command(tmp_path, capsys):
    source, out = tmp_path / "a.safetensors", tmp_path / "a.py"
    save_file(made("learnable_sgd"), source)
    line = ["export", str(source), "--framework", "torch", "-o", str(out)]
    assert run(line) == 2
    assert "must go with `--format python` alone" in capsys.readouterr().err
    line += ["--format", "python"]
    assert run([*line[:3], "trch", *line[4:]]) == 2
    told = capsys.readouterr().err
    assert "must be `optax` or `torch`, got 'trch'" in told
    assert "did you mean `torch`?" in told and not out.exists()
    assert run(line) == 0
    assert "needs torch, not lopt" in out.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("label", sorted(VARIANTS))
def test_the_same_updates_of_all(tmp_path, label):
    check_alone(tmp_path, [label])
