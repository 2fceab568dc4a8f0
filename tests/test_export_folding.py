"""What a standalone file leaves out: the program that is left does the same."""

import ast
import builtins
from pathlib import Path

import pytest

import lopt
from lopt.export.calls import AS_GIVEN
from lopt.export.folding import folded
from lopt.export.linking import linked
from lopt.export.sources import CHECKED, module


def text_of(source):
    program = folded(linked(source), ":load")
    lines = [ast.unparse(ast.fix_missing_locations(d.node)) for d in program.definitions]
    return "\n".join(lines)


def defined(source):
    return {d.names[0] for d in folded(linked(source), ":load").definitions}


def result(source, *args):
    """What the folded program returns, its names made ones of Python."""
    program = folded(linked(source), ":load")
    for definition in program.definitions:
        for node in ast.walk(definition.node):
            if isinstance(node, ast.Name):
                node.id = node.id.replace(":", "_").replace(".", "_")
        if isinstance(definition.node, ast.FunctionDef | ast.ClassDef):
            definition.node.name = definition.names[0].replace(":", "_")
    names = {}
    for definition in program.definitions:
        exec(ast.unparse(ast.fix_missing_locations(definition.node)), names)
    return names["_load"](*args)


PARTS = {
    "a parameter that all calls agree on": (
        "def f(x, kind, *, n=2):\n"
        "    if kind == 'a' and n > 1:\n        return x * n\n"
        "    y = x + 1\n    return y\n"
        "def load(x):\n    return f(x, 'a') + f(x + 1, kind='a')\n",
        "kind",
    ),
    "a branch that is never taken": (
        "def f(x, deep):\n    if not deep:\n        return g(x)\n    z = x\n"
        "    return -z if deep else x\n"
        "def g(x):\n    return [x]\n"
        "def load(x):\n    return f(x, True) + f(2, True)\n",
        "g(",
    ),
    "a test of two things": (
        "def f(x, n, m):\n    y = x\n    if n and m:\n        return g(x)\n"
        "    return y if n or m else g(x)\n"
        "def g(x):\n    return [x, x]\n"
        "def load(x):\n    return f(x, False, True)\n",
        "g(",
    ),
    "a table that is looked up": (
        "def one():\n    return 1\ndef two():\n    return 2\n"
        "TABLE = {'one': one, 'two': two}\n"
        "def f(names):\n    return tuple(TABLE[name]() for name in names)\n"
        "def load(x):\n    return x + sum(f(('two', 'two')))\n",
        "one",
    ),
    "a check": (
        "def check(*, size):\n    print(size)\n"
        "def f(x, size):\n    check(size=size)\n    return x * size * size\n"
        "def load(x):\n    return f(x, 3)\n",
        "check",
    ),
    "a sum that no one reads": (
        "def f(x):\n    spare = [x]\n    for i in range(x):\n        spare += [i]\n"
        "    return x\n"
        "def load(x):\n    return f(x + 1) + f(x)\n",
        "spare",
    ),
    "an unused function inside": (
        "def f(x):\n    def init(key):\n        return key\n"
        "    def step(x):\n        return x + 1\n    unused = 3\n    return step(x)\n"
        "def load(x):\n    return f(x)\n",
        "init",
    ),
}


@pytest.mark.parametrize("label", PARTS)
def test_what_is_known_is_left_out(label):
    source, absent = PARTS[label]
    names = {}
    exec(source, names)
    assert absent in source and absent not in text_of(source)
    assert result(source, 5) == names["load"](5)


KEPT = {
    "calls that differ": (
        "def f(x, n):\n    y = x\n    return y * n if n else y\n"
        "def load(x):\n    return f(x, 2) + f(x, 0)\n"
    ),
    "equal numbers of other types": (
        "def f(x, n):\n    y = [x]\n    return y + [n is True, n]\n"
        "def load(x):\n    return f(x, True) + f(x, 1)\n"
    ),
    "a function that is passed on": (
        "def f(x, n=1):\n    return x + n if n else x\n"
        "def load(x):\n    return f(x) + sum(map(f, [x], [7]))\n"
    ),
    "a name that is bound anew": (
        "def f(x, n):\n    out = [n for n in range(x)]\n"
        "    n = n + 1\n    return out, n\n"
        "def load(x):\n    return f(x, 3)\n"
    ),
    "a parameter that is set": (
        "def f(x, n):\n    y = x\n    if x:\n        n = x\n"
        "    return 0 if n == 3 else y\n"
        "def load(x):\n    return f(x, 3)\n"
    ),
    "a test of which half is known": (
        "def f(x, n):\n    if n and x > 9:\n        return 0\n"
        "    if not n or x > 3:\n        return x\n    return -1\n"
        "def load(x):\n    return f(x, True)\n"
    ),
    "a name that a function inside reads": (
        "class Base:\n    def __init__(self, get):\n        self.get = get\n"
        "def make(x):\n    def get():\n        return base, x\n"
        "    base = Base(get)\n    return base\n"
        "def load(x):\n    made = make(x)\n    return made.get()[1]\n"
    ),
    "what is computed before something else": (
        "def load(x):\n    items = iter([x, 1])\n    first = next(items)\n"
        "    return next(items) - first\n"
    ),
    "a table that is looked up by what is given": (
        "def one(x):\n    return x\n"
        "TABLE = {'one': one, 'two': one}\n"
        "def load(x):\n    return [TABLE[k](x) for k in ('one', 'two')]\n"
    ),
    "arguments that are computed once": (
        "def f(x):\n    return x + x\n"
        "def load(x):\n    items = iter([x, 1, 2])\n    return f(next(items))\n"
    ),
}


@pytest.mark.parametrize("label", KEPT)
def test_what_is_not_known_stays(label):
    names = {}
    exec(KEPT[label], names)
    assert result(KEPT[label], 4) == names["load"](4)


def test_of_a_class_what_no_one_asks_for_is_left_out():
    source = (
        "class A:\n    def used(self):\n        return 1\n"
        "    def spare(self):\n        return helper()\n"
        "def helper():\n    return 2\n"
        "def load(x):\n    a = A()\n    return a.used() + x\n"
    )
    assert defined(source) == {":A", ":load"}
    assert "spare" not in text_of(source)


def test_what_theta_lacks_is_known():
    source = (
        "def g(x):\n    return [x]\n"
        "def f(theta):\n    return theta['a'] + (g(1) if 'b' in theta else 0)\n"
        "def load(x):\n    return f({'a': x})\n"
    )
    for names, is_there in ((("a",), False), (("a", "b"), True)):
        found = folded(linked(source), ":load", names).definitions
        text = " ".join(ast.unparse(d.node) for d in found)
        assert ("[1]" in text) == is_there


def test_of_a_class_outside_the_package_what_its_base_may_call_stays():
    source = (
        "import collections\n"
        "class A(collections.UserDict):\n    def get(self):\n        return 1\n"
        "    def _spare(self):\n        return 2\n"
        "def load(x):\n    return A\n"
    )
    text = text_of(source)
    assert "def get" in text and "_spare" not in text


def test_names_of_the_package_are_found_wherever_they_come_from():
    source = (
        "from lopt import mup\nfrom lopt.optimizers import mixing\n"
        "def load(x):\n    return mup.infer_specs(x), mixing.EPS\n"
    )
    assert {
        "lopt.mup:infer_specs",
        "lopt.specs:ParamSpec",
        "lopt.optimizers.inputs:EPS",
    } < (defined(source))
    program = linked(source)
    order = [name for d in program.definitions for name in d.names]
    assert order.index("lopt.specs:ParamSpec") < order.index("lopt.mup:infer_specs")
    assert "import jax" in program.imports


def test_what_is_taken_as_given_exists():
    for name in AS_GIVEN:
        owner, _, function = name.partition(":")
        assert isinstance(module(owner).defined[function], ast.FunctionDef), name
    known = {*dir(builtins), *defined_somewhere()}
    assert known >= CHECKED, CHECKED - known


def defined_somewhere():
    folder = Path(lopt.__file__).parent
    trees = [ast.parse(file.read_text()) for file in folder.rglob("*.py")]
    kinds = ast.FunctionDef | ast.ClassDef
    return {n.name for t in trees for n in ast.walk(t) if isinstance(n, kinds)}
