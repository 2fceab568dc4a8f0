"""The examples train, and the language models of PyTorch and jax train alike.

Each needs its own package (`pip install 'lopt[examples]'`).
"""

import importlib
import json

import numpy as np
import pytest

NEEDED = {
    "torch_loop": ["torch"],
    "nnx_loop": ["flax"],
    "equinox_loop": ["equinox"],
    "language_model_torch": ["torch"],
    "lightning_fit": ["torch", "lightning"],
    "hugging_face_trainer": ["torch", "transformers", "accelerate"],
    "same_curve": ["torch"],
}


def example(name):
    for package in NEEDED.get(name, []):
        pytest.importorskip(package, reason=f"{package} is not installed")
    if "torch" in NEEDED.get(name, []):
        importlib.import_module("torch").set_num_threads(1)
    return importlib.import_module(name)


@pytest.mark.parametrize("name", ["torch_loop", "nnx_loop", "equinox_loop"])
def test_loops_learn_digits(name, capsys):
    losses = example(name).main(num_steps=40)
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.25 * losses[0]
    printed = capsys.readouterr().out
    assert f"step 0: loss {losses[0]:.3f}" in printed
    assert float(printed.split()[-1].rstrip("%")) > 75


def test_lightning_learns_digits(tmp_path):
    options = {"default_root_dir": tmp_path, "accelerator": "cpu"}
    options |= {"enable_progress_bar": False, "enable_model_summary": False}
    losses = example("lightning_fit").main(max_epochs=2, **options)
    assert np.mean(losses[-5:]) < 0.25 * losses[0]


def test_hugging_face_learns_text(tmp_path):
    options = {"output_dir": tmp_path, "use_cpu": True, "logging_steps": 1}
    losses = example("hugging_face_trainer").main(num_steps=12, **options)
    assert len(losses) == 12
    assert float(losses[-1]) < 0.85 * float(losses[0])


@pytest.fixture
def small(monkeypatch):
    """The language model, small enough for a test; its modules are read anew."""
    model = importlib.import_module("language_model")
    sizes = {"WIDTH": 16, "HEADS": 2, "LAYERS": 1, "LENGTH": 16, "BATCH": 4}
    for name, size in sizes.items():
        monkeypatch.setattr(model, name, size)
    kernels = {"attend": (16, 48), "gather": (16, 16), "widen": (16, 64)}
    blocks = {**kernels, "narrow": (64, 16)}
    shapes = {
        "tokens.weight": (256, 16),
        "positions.weight": (16, 16),
        **{f"blocks.0.{k}.weight": s for k, s in blocks.items()},
        "head.weight": (16, 256),
    }
    monkeypatch.setattr(model, "SHAPES", shapes)
    yield model
    monkeypatch.undo()
    importlib.reload(model)


def test_one_curve_in_both_frameworks(small, tmp_path):
    """Relative 1e-5 in 8 steps: rounding differs, and training amplifies it."""
    both = [example(f"language_model_{name}") for name in ("torch", "jax")]
    in_torch, in_jax = [importlib.reload(module) for module in both]
    start = tmp_path / "start.safetensors"
    small.save_start(start)
    losses = in_torch.main(8, start)
    np.testing.assert_allclose(in_jax.main(8, start), losses, rtol=1e-5)
    assert losses[-1] < 0.97 * losses[0]


def test_both_frameworks_are_told_the_same(small):
    """Role and place of each parameter; axes are those of the layout."""
    in_torch, in_jax = example("language_model_torch"), example("language_model_jax")
    torch_specs = importlib.import_module("lopt.torch").param_specs(
        importlib.reload(in_torch).Model()
    )
    shapes = {name: np.zeros(shape) for name, shape in small.SHAPES.items()}
    specs = importlib.reload(in_jax).specs_of(shapes)
    assert set(torch_specs) == set(specs)
    for name, spec in specs.items():
        other = torch_specs[name]
        for field in ("role", "depth", "num_layers", "fan_in", "fan_out"):
            assert getattr(spec, field) == getattr(other, field), (name, field)


def test_the_figure_of_the_curve(tmp_path):
    module = example("same_curve")
    found = {"torch": ([2.0, 1.0], 0.1), "jax": ([2.0, 1.25], 0.2)}
    told = module.results(found, "command")
    apart = told["largest_relative_difference_in_the_first"]
    assert apart == {1: 0.0}
    assert told["mean_of_the_last_100"] == {"torch": 1.5, "jax": 1.625}
    assert json.loads(json.dumps(told))["losses"]["jax"] == [2.0, 1.25]
    module.draw(found, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 10_000
