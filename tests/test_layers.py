"""Imports point down the layers, and the command line starts without jax."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lopt

PACKAGE = Path(lopt.__file__).parent

LAYERS = (
    {"architecture", "specs"},
    {"base", "bundled", "compiling", "errors"},
    {"config", "disk", "numerics", "prng", "sharding"},
    {"checks", "data", "features", "mixtures", "mup", "packing"},
    {"bases", "corpus", "factories", "files", "streams"},
    {"augmentation", "families", "guard", "optimizers", "options", "unroll"},
    {"estimators", "finetuning", "outer", "torch", "weights"},
    {"checkpoint", "suites"},
    {"decisions", "groups", "own_task", "published"},
    {"references", "trainer"},
    {"evaluation", "run", "show"},
    {"costs", "export"},
    {"cli"},
)
"""From the bottom; a module imports from layers below its own, or from its subpackage.
The package's own `__init__` exports names of all layers, lazily."""

DEPTH = {name: depth for depth, layer in enumerate(LAYERS) for name in layer}


def modules(package: Path) -> dict[str, str]:
    """The source of each module, by its dotted name inside the package."""
    return {
        ".".join(path.relative_to(package).with_suffix("").parts): path.read_text()
        for path in package.rglob("*.py")
        if path.parent != package or path.name != "__init__.py"
    }


def upward_imports(sources: dict[str, str]) -> list[str]:
    """Every import of a module that does not lie below its importer."""
    found = []
    for name, source in sources.items():
        part = name.split(".")[0]
        for target in imported(ast.parse(source)) - {part}:
            if DEPTH[target] >= DEPTH[part]:
                found.append(f"{name} imports {target}")
    return found


def imported(tree: ast.AST) -> set[str]:
    """The modules and subpackages of lopt that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = {name.split(".")[1] for name in names if name.startswith("lopt.")}
    return parts - {"__version__"}


def test_every_module_has_a_layer():
    parts = {name.split(".")[0] for name in modules(PACKAGE)}
    assert parts <= set(DEPTH), "add it to LAYERS"


def test_the_readme_names_every_module():
    readme = PACKAGE.parent / "README.md"
    lines = [line.split() for line in readme.read_text().splitlines()]
    named = {words[0] for words in lines if words}
    parts = {name.split(".")[0] for name in modules(PACKAGE)}
    assert {f"{p}/" if (PACKAGE / p).is_dir() else f"{p}.py" for p in parts} <= named


def test_imports_point_down():
    assert upward_imports(modules(PACKAGE)) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("mup", "from lopt.cli import console"),
        ("errors", "import lopt.base"),
        ("families.mlp", "from lopt import trainer"),
        ("trainer", "def f():\n    from lopt.run import meta_train"),
        ("base", "from lopt.errors import LoptError"),
    ],
)
def test_a_planted_upward_import_is_found(module, line):
    sources = modules(PACKAGE)
    planted = {**sources, module: sources.get(module, "") + "\n" + line}
    found = upward_imports(planted)
    assert len(found) == 1
    assert found[0].startswith(f"{module} imports ")


@pytest.mark.parametrize(
    "start",
    [
        "import lopt",
        "import lopt.config",
        "import lopt.cli",
        "from lopt.cli import run; run(['--help'])",
        "from lopt.cli import run; run(['meta-train', '--help'])",
        "from lopt.cli import run; run(['list', 'suites'])",
    ],
)
def test_starts_without_jax(start):
    check = "import sys; print({'jax', 'optax', 'numpy'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", f"{start}\n{check}"],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert result.stdout.splitlines()[-1] == "set()"


def test_exports_are_what_they_are_called():
    for name in lopt.__all__:
        value = getattr(lopt, name)
        assert getattr(value, "__name__", name) == name
        assert name in dir(lopt)
    assert callable(lopt.evaluate)
    with pytest.raises(AttributeError, match="metatrain"):
        lopt.metatrain  # noqa: B018
