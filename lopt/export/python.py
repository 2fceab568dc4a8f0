"""One Python file that is the optimizer: its weights, and its code out of lopt's source.

It needs jax and optax, not lopt. The code is that of the functions that the optimizer
reaches with its options (linking.py), simplified by what these options settle
(folding.py); its updates are those of `lopt.load`.
"""

import ast
import base64
import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lopt.checkpoint import Checkpoint
from lopt.errors import ConfigError
from lopt.export import folding, linking, sources
from lopt.export.constants import read_in
from lopt.export.linking import Definition, Program
from lopt.files import fileformat
from lopt.optimizers import OPTIMIZERS
from lopt.options import typed_options

WIDTH = 90

_LOAD = '''\
import jax
import jax.numpy as jnp

from {module} import {name}


def load(*, num_steps=None, specs=None):
    """The optimizer; `specs`, a tree of `ParamSpec`s, says what shapes cannot."""
    theta = jax.tree.map(jnp.asarray, WEIGHTS)
    return {name}({options})(theta, num_steps=num_steps, specs=specs)
'''

_ARRAY = """\
def _array(shape, text):
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)
"""

_HEAD = '''\
"""A learned optimizer, `{name}` of lopt, in one file: needs jax and optax, not lopt.

    optimizer = load(num_steps=1000)
    state = optimizer.init(params)
    updates, state = optimizer.update(grads, state, params, value=loss)
    params = optax.apply_updates(params, updates)

{about}

Made by `lopt export --format python` of lopt's source, with the options of `HEADER`.
Apache-2.0.
"""
'''


def write(checkpoint: Checkpoint, path: Path, *, overwrite: bool = False) -> None:
    """Writes the file; the errors of `source` and of `fileformat.write_file`."""
    fileformat.write_file(path, source(checkpoint).encode(), overwrite=overwrite)


def source(checkpoint: Checkpoint) -> str:
    """The file.

    Raises:
      ConfigError: the optimizer is not one of lopt's own architectures.
    """
    header = checkpoint.header
    if header.optimizer not in OPTIMIZERS:
        raise ConfigError(
            f"only lopt's own architectures can be written as Python, got "
            f"`{header.optimizer}`",
            hint="the file that defines it is Python already",
        )
    factory = OPTIMIZERS[header.optimizer]
    typed = typed_options(factory, header.options, where="optimizer")
    given = ", ".join(f"{key}={value!r}" for key, value in typed.items())
    module, name = factory.__module__, factory.__name__
    load = _LOAD.format(module=module, name=name, options=given)
    program = folding.folded(linking.linked(load), ":load")
    about = sources.module(module).doc
    parts = [
        _HEAD.format(name=name, about=about),
        _imports(program),
        _ARRAY,
        "# fmt: off",
        f"HEADER = {_text(fileformat.content(header))}\n",
        f"WEIGHTS = {_weights(jax.device_get(checkpoint.theta))}",
        "# fmt: on",
        *_code(program),
    ]
    return formatted("\n".join(parts))


def _text(content: dict[str, Any]) -> str:
    """A literal, in lines that are as full as they can be."""
    string = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
    lines = [""]
    for part in re.findall(rf"(?:{string}|[^'\",])+(?:, |$)", repr(content)):
        if len(lines[-1]) + len(part) > WIDTH:
            lines.append(part)
        else:
            lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def _weights(tree: Mapping[str, Any]) -> str:
    """A literal, each array as text: little-endian float32 in base 64."""
    lines = ["{"]
    for name, x in tree.items():
        if isinstance(x, Mapping):
            lines.append(f'"{name}": {_weights(x)},')
            continue
        array = np.asarray(x, order="C")
        assert array.dtype == np.float32, name
        text = base64.b64encode(array.astype("<f4").tobytes()).decode()
        rows = textwrap.wrap(text, WIDTH)
        lines += [f'"{name}": _array({array.shape!r}, """', *rows, '"""),']
    return "\n".join([*lines, "}"])


def _imports(program: Program) -> str:
    """What the code reads of other packages."""
    read = {name for d in program.definitions for name in read_in(d.node)}
    plain, names = ["import base64", "import numpy as np"], {}
    for node in program.imports.values():
        alias = node.names[0]
        if (alias.asname or alias.name).partition(".")[0] not in read:
            continue
        if isinstance(node, ast.Import):
            plain.append(ast.unparse(node))
        else:
            names.setdefault(node.module, []).append(alias.name)
    lines = [f"from {m} import {', '.join(sorted(n))}" for m, n in names.items()]
    return "\n".join([*sorted({*plain}), *sorted(lines)])


def _code(program: Program) -> Iterable[str]:
    """The definitions, module by module, under what each module says it is."""
    names = _names(program)
    owner = None
    for definition in program.definitions:
        module = definition.names[0].partition(":")[0]
        is_constant = not isinstance(definition.node, ast.FunctionDef | ast.ClassDef)
        yield "" if is_constant and module == owner else "\n"
        if module != owner:
            owner = module
            yield textwrap.fill(
                _title(module), WIDTH, initial_indent="# ", subsequent_indent="# "
            )
        yield _definition(definition, names)


def _title(module: str) -> str:
    """Of the code of a module."""
    if not module:
        return "What is called from outside."
    return f"{module}: {sources.module(module).doc.partition('.')[0].partition(':')[0]}"


def _names(program: Program) -> dict[str, str]:
    """Short names for the global ones: `name`, or `module_name` where that is taken."""
    wanted: dict[str, set[str]] = {}
    for definition in program.definitions:
        for full in definition.names:
            wanted.setdefault(full.partition(":")[2], set()).add(full)
    hidden = _Hidden()
    for definition in program.definitions:
        hidden.visit(definition.node)
    found = {}
    for short, fulls in wanted.items():
        for full in fulls:
            module = full.partition(":")[0].rpartition(".")[2]
            is_taken = full in hidden.found or (len(fulls) > 1 and module)
            private = "_" if short.startswith("_") else ""
            longer = f"{private}{module}_{short.lstrip('_')}"
            found[full] = longer if is_taken else short
    assert len({*found.values()}) == len(found), found
    return found


class _Hidden(ast.NodeVisitor):
    """Global names whose short form means something else where they are read."""

    def __init__(self):
        self.scopes: list[set[str]] = []
        self.found: set[str] = set()

    def visit(self, node: ast.AST) -> None:
        names = sources.scope_of(node)
        self.scopes.append(names or set())
        super().visit(node)
        self.scopes.pop()

    def visit_Name(self, node: ast.Name) -> None:
        short = node.id.partition(":")[2]
        if any(short in names for names in self.scopes):
            self.found.add(node.id)


def _definition(definition: Definition, names: dict[str, str]) -> str:
    node = definition.node
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            part.id = names.get(part.id, part.id)
        elif isinstance(part, ast.FunctionDef | ast.ClassDef):
            _shorten_doc(part)
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        node.name = names[definition.names[0]]
    text = ast.unparse(ast.fix_missing_locations(node)) + "\n"
    text = "".join(map(_without_parentheses, text.splitlines(keepends=True)))
    for part in ast.walk(node):
        if comment := getattr(part, sources.COMMENT, ""):
            line = f"    {ast.unparse(part)}\n"
            text = text.replace(line, f"{line[:-1]}  {comment}\n")
    if definition.doc:
        text += f'"""{_short(definition.doc)}"""\n'
    return text


def _without_parentheses(line: str) -> str:
    """A line without those that say nothing, which Python's own writer sets."""
    wanted = _tree(line)
    if wanted is None:
        return line
    start = line.find("(")
    while start >= 0:
        ends = [i for i, c in enumerate(line) if c == ")" and i > start]
        for end in ends:
            shorter = line[:start] + line[start + 1 : end] + line[end + 1 :]
            if _tree(shorter) == wanted:
                line = shorter
                break
        start = line.find("(", start + 1)
    return line


def _tree(line: str) -> str | None:
    """What a line of code says; None: it is not one of itself."""
    statement = re.sub(r"^el(if .*)", r"\1", line.strip())
    statement += " pass" if statement.endswith(":") else ""
    try:
        return ast.dump(ast.parse(statement))
    except SyntaxError:
        return None


def _short(doc: str) -> str:
    """The first paragraph."""
    return inspect.cleandoc(doc).partition("\n\n")[0]


def _shorten_doc(node: ast.FunctionDef | ast.ClassDef) -> None:
    doc = ast.get_docstring(node)
    if doc is not None:
        node.body[0] = ast.Expr(ast.Constant(_short(doc)))


def formatted(text: str) -> str:
    """The text as ruff formats it; where there is no ruff, as it is."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    ruff = shutil.which("ruff", path=os.pathsep.join(places))
    if ruff is None:
        return text
    command = [ruff, "format", "--isolated", f"--line-length={WIDTH}", "-"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=True)
    return done.stdout.decode()
