"""The standalone file: updates to the bit, without lopt, readable, and nothing else."""

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import PARAMS, made

from lopt.checkpoint import Checkpoint, load, read, save_file
from lopt.cli import run
from lopt.errors import CheckpointError, ConfigError
from lopt.export import layout, python
from lopt.mup import param_specs
from lopt.optimizers import OPTIMIZERS

SMALL = {
    "celo": {"hidden_size": 8},
    "velo": {"hidden_size": 8, "num_networks": 4, "loss_horizon": 10},
    "rnn_mlp": {"hidden_size": 8, "hidden_sizes": (4,)},
    "nn_adam": {"hidden_size": 4},
}
VARIANTS = {name: (name, SMALL.get(name, {})) for name in sorted(OPTIMIZERS)} | {
    "all bases": (
        "layerwise",
        {
            "bases": ("shampoo", "lion", "adabelief", "sgd", "muon"),
            "momenta": (0.5, 0.9),
            "prior_blend": (0.2, 0.3, 0.5),
            "hidden_sizes": (3,),
            "prior_logits": {"sgd": 1.0, "muon": 2.0},
        },
    ),
    "embedding": ("layerwise", {"embedding_size": 2, "num_tensors": 3}),
    "bfloat16": ("adafac_mlp", {"state_dtype": "bfloat16"}),
    "wide": ("adafac_mlp", {"hidden_sizes": (16,)}),
    "clipped": ("mup_adafac", {"clip_norm": 0.5}),
    "by role": ("learnable_adam", {"per_role": True}),
    "phase 1": ("celo", {"phase": 1, "hidden_size": 8}),
    "last axes": ("celo2", {"axes": "last", "schedule": "cosine", "vectors": "adam"}),
}

ALONE = """
import importlib.util, sys
from pathlib import Path

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "lopt":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
import jax, jax.numpy as jnp, numpy as np

def grads(i):
    return jax.tree.map(lambda p: jnp.cos(p * (i + 1) + 0.3 * i), params)

folder = Path(sys.argv[1])
params = {k: jnp.asarray(v) for k, v in np.load(folder / "params.npz").items()}
for file in sorted(folder.glob("*.py")):
    spec = importlib.util.spec_from_file_location("alone", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    optimizer = module.load(num_steps=6)
    update, state = jax.jit(optimizer.update), optimizer.init(params)
    found = {}
    for i in range(3):
        loss = jnp.asarray(1.0 / (i + 1))
        updates, state = update(grads(i), state, params, value=loss)
        found |= {f"{i}{k}": v for k, v in updates.items()}
    np.savez(file.with_suffix(".npz"), **found)
assert "lopt" not in sys.modules
"""

FLAT = {"w": PARAMS["a"]["kernel"], "b": jnp.arange(4.0), "s": PARAMS["b"][0]}
FLAT["k"] = jnp.linspace(-1.0, 2.0, 24).reshape(2, 3, 4)


def expected(checkpoint):
    optimizer = checkpoint.lopt.opt_fn(checkpoint.theta, num_steps=6)
    update, state = jax.jit(optimizer.update), optimizer.init(FLAT)
    found = {}
    for i in range(3):
        grads = jax.tree.map(lambda p, i=i: jnp.cos(p * (i + 1) + 0.3 * i), FLAT)
        loss = jnp.asarray(1.0 / (i + 1))
        updates, state = update(grads, state, FLAT, value=loss)
        found |= {f"{i}{k}": np.asarray(v) for k, v in updates.items()}
    return found


def module_of(text, tmp_path):
    """What a standalone file defines."""
    names = {"__name__": "alone"}
    exec(compile(text, str(tmp_path / "alone.py"), "exec"), names)
    return names


def variant(label):
    name, options = VARIANTS[label]
    if "embedding_size" in options:
        options = {**options, "num_tensors": len(FLAT)}
    return made(name, **options)


def run_alone(folder, labels):
    """The updates of these files in one process that has no lopt."""
    np.savez(folder / "params.npz", **FLAT)
    for label in labels:
        (folder / f"{label}.py").write_text(python.source(variant(label)))
    command = [sys.executable, "-c", ALONE, str(folder)]
    subprocess.run(command, check=True, cwd=folder, env=environment())


def environment():
    """That of a process that finds no lopt by its path."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}


def check_alone(folder, label):
    want, got = expected(variant(label)), np.load(folder / f"{label}.npz")
    assert set(want) == set(got)
    for name, update in want.items():
        assert np.abs(update).max() > 0, name
        np.testing.assert_array_equal(got[name], update, err_msg=name)


def check_ruff(folder):
    """At most 90 columns but for strings; no unused imports, no undefined names."""
    for file in folder.glob("*.py"):
        for line in file.read_text().splitlines():
            assert len(line) <= 90 or re.search(r"""f?(['"]).{50,}\1""", line), line
    ruff = shutil.which("ruff") or pytest.skip("ruff is not installed")
    command = [ruff, "check", "--select=F", "--ignore=F841", "--isolated", "-q", folder]
    subprocess.run(command, check=True)


QUICK = ("by role", "learnable_sgdm", "all bases")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run_alone(folder, QUICK)
    return folder


@pytest.mark.parametrize("label", QUICK)
def test_the_same_updates_without_lopt(alone, label):
    check_alone(alone, label)


def test_files_are_narrow_and_have_no_loose_ends(alone):
    check_ruff(alone)


@pytest.mark.slow
@pytest.mark.parametrize("label", sorted({*VARIANTS} - {*QUICK}))
def test_the_same_updates_without_lopt_of_all(tmp_path, label):
    run_alone(tmp_path, [label])
    check_alone(tmp_path, label)
    check_ruff(tmp_path)


LONG = (
    "    x, (y, *z) = f(g(aaaaaaaaaaaaaaaaaaaa, b=[c for c in ddddddddddddddddd if c]), "
    "eeeeeeeeeeeeeeee(ffffffffffff + 1)), hhhhhhhhhhhhhhhhhhh[iiiiiiii, 2:jjjjjjjjjjjj]",
    "    if aaaaaaaaaaaaaaaaaaaaaaaaaa(bbbbbbbbbbbbbbbbb - ccccccccccccccccccccccc, "
    "'a, (string ,[', f'{dddddddddd} eeeeeeeeeee {ffffffff + 1} '):",
    "    assert aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa(bbbbbbbbbbb, ccccccccccccc) == "
    "dddddddddddddddddd(eeeeeeeee, ffffffffffffff)",
    "    return aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa if bbbbbbbbbbbbbbbbbbbbbb() else "
    "ccccccccccccccccccccccccccccccccc",
    "    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, b = ccccccccccccccccccccccccccccccc, "
    "dddddddddddddddddddddd",
    "    return aaaaaaaaaaaaaaaaaaaaaaaaaa + f(b)",
)


@pytest.mark.parametrize("line", LONG)
def test_long_lines_are_broken_where_they_may_be(line):
    text = layout.filled(line)
    assert max(map(len, text.splitlines())) <= 90
    ends = "\n        pass" if line.endswith(":") else ""
    trees = [ast.dump(ast.parse(f"def f():\n{x}{ends}")) for x in (line, text)]
    assert trees[0] == trees[1] and (len(line) > 90) == ("\n" in text)


def test_docstrings_are_comments_as_far_as_they_fit():
    checkpoint = made("learnable_sgd")
    text = python.source(checkpoint)
    assert "def load(*, num_steps=None, specs=None):  # The optimizer" in text
    assert text.count('"""') == 2 + 2 * len(jax.tree.leaves(checkpoint.theta))


def data_lines(text):
    """Lines of `HEADER` and `WEIGHTS`, which no one reads."""
    data = [
        node
        for node in ast.parse(text).body
        if getattr(getattr(node, "targets", [None])[0], "id", "") in ("HEADER", "WEIGHTS")
    ]
    assert len(data) == 2
    return sum(node.end_lineno - node.lineno + 1 for node in data)


@pytest.fixture(scope="module")
def released():
    return python.source(read("layerwise"))


def test_the_released_layerwise_is_small(released):
    text = released
    assert len(text.encode()) <= 100_000
    assert len(text.splitlines()) <= 434
    assert len(text.splitlines()) - data_lines(text) <= 400
    assert "def orthogonalize(matrices):  # The semi-orthogonal matrix next to " in text
    assert "next to each matrix, singular" not in text  # it would not fit
    for absent in ("shampoo", "ConfigError", "bfloat16", "import lopt", "from lopt"):
        assert absent not in text.partition('"""\n\n')[2], absent


def test_the_file_says_what_it_is(released, tmp_path):
    checkpoint = read("layerwise")
    names = module_of(released, tmp_path)
    assert names["HEADER"]["optimizer"]["options"] == checkpoint.header.options
    assert names["HEADER"]["card"] == checkpoint.header.card
    jax.tree.map(np.testing.assert_array_equal, names["WEIGHTS"], checkpoint.theta)
    with pytest.raises(TypeError, match="needs `num_steps`"):
        names["load"]()


def test_specs_are_heeded(released, tmp_path):
    names = module_of(released, tmp_path)
    wide = {"w": jnp.ones((8, 6)), "v": jnp.ones((6, 6)), "b": jnp.zeros(6)}
    base = jax.tree.map(lambda x: np.zeros([(n + 1) // 2 for n in x.shape]), wide)
    base["w"] = np.zeros((8, 3))
    specs = param_specs(wide, base_params=base, form="mup")
    own = jax.tree.map(lambda spec: names["ParamSpec"](**vars(spec)), specs)
    grads = jax.tree.map(jnp.cos, wide)

    def first_update(optimizer):
        state = jax.jit(optimizer.init)(wide)
        return jax.jit(optimizer.update)(grads, state, wide, value=jnp.float32(2))[0]

    ours = load("layerwise", num_steps=9, specs=specs)
    plain = first_update(names["load"](num_steps=9))
    got = first_update(names["load"](num_steps=9, specs=own))
    jax.tree.map(np.testing.assert_array_equal, got, first_update(ours))
    assert np.abs(got["v"] - plain["v"]).max() > 1e-4


def test_only_lopts_own_architectures(tmp_path):
    checkpoint = made("mlp")
    header = replace(checkpoint.header, optimizer="mine.py:mine")
    own = Checkpoint(
        path=Path("x"), lopt=checkpoint.lopt, theta=checkpoint.theta, header=header
    )
    with pytest.raises(ConfigError, match=r"got `mine\.py:mine`") as error:
        python.write(own, tmp_path / "x.py")
    assert error.value.hint and not list(tmp_path.iterdir())


def test_the_command(tmp_path, capsys):
    source, out = tmp_path / "a.safetensors", tmp_path / "a.py"
    save_file(made("learnable_sgd"), source)
    line = ["export", str(source), "--format", "python", "-o", str(out)]
    assert run(line) == 0
    assert "from a import load" in capsys.readouterr().err
    before = out.read_text()
    assert run(line) == 1
    assert "exists already" in capsys.readouterr().err
    out.write_text("precious")
    with pytest.raises(CheckpointError):
        python.write(read(source), out)
    assert out.read_text() == "precious"
    assert run([*line, "--force"]) == 0
    assert out.read_text() == before
    assert run([*line, "--force", "--num-steps", "9"]) == 2
    assert "`--num-steps` must go with" in capsys.readouterr().err
    assert run([*line, "--force", "--like", str(source)]) == 2
    assert "`--like` must go with" in capsys.readouterr().err
    assert run([*line[:3], "pyhton", *line[4:]]) == 2
    told = capsys.readouterr().err
    assert "got 'pyhton'" in told and "did you mean `python`?" in told
