"""One Python file that is the optimizer: its weights, and its code out of lopt's source.

It needs jax and optax, or torch, not lopt. The code is that of the functions that the
optimizer reaches with its options (linking.py), simplified by what these options settle
(folding.py) and written (layout.py); its updates are those of `lopt.load`, or of
`lopt.torch.LearnedOptimizer`.
"""

import ast
import base64
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lopt.checkpoint import Checkpoint
from lopt.errors import ConfigError
from lopt.export import folding, layout, linking, sources
from lopt.export.constants import read_in
from lopt.export.linking import Program
from lopt.files import fileformat
from lopt.optimizers import OPTIMIZERS
from lopt.options import typed_options


class _Form(NamedTuple):
    """What a file in one of the frameworks has.

    Attributes:
      use: how it is used, in its docstring.
      needs: packages.
      array: what makes an array of what is written, and `imports` for that.
      load: the function that is called from outside, and what else is not in lopt.
      instead: names of lopt that `load` defines anew.
    """

    use: str
    needs: str
    array: str
    imports: tuple[str, ...]
    load: str
    instead: tuple[str, ...] = ()


_OPTAX = _Form(
    needs="jax and optax",
    use="""\
    optimizer = load(num_steps=1000)
    state = optimizer.init(params)
    updates, state = optimizer.update(grads, state, params, value=loss)
    params = optax.apply_updates(params, updates)
""",
    array='return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)',
    imports=("base64", "numpy as np"),
    load='''\
import jax
import jax.numpy as jnp

from {module} import {name}


def load(*, num_steps=None, specs=None):
    """The optimizer; `specs`, a tree of `ParamSpec`s, says what shapes cannot."""
    theta = jax.tree.map(jnp.asarray, WEIGHTS)
    return {name}({options})(theta, num_steps=num_steps, specs=specs)
''',
)

_TORCH = _Form(
    needs="torch",
    use="""\
    optimizer = load(model, num_steps=1000)
    ...
    loss.backward()
    optimizer.step(loss=loss)
""",
    array="""\
data = bytearray(base64.b64decode(text))
    return torch.frombuffer(data, dtype=torch.float32).reshape(shape)""",
    imports=("base64",),
    load='''\
from typing import Any, NamedTuple

import torch

from {module} import {name}
from lopt.torch.optimizer import LearnedOptimizer as Optimizer


class Header(NamedTuple):
    """Which optimizer it is."""
    optimizer: str
    options: dict[str, Any]


def read(path_or_name, known):
    """The weights of this file."""
    return WEIGHTS, Header({name!r}, {{}})


def built(name, theta, options, num_steps):
    """The rule with the options of `HEADER`."""
    return {name}(theta, num_steps=num_steps, {options})


RULES = {{{name!r}: lambda theta, *, num_steps: built("", theta, {{}}, num_steps)}}


def load(params, *, num_steps=None, **options):
    """The `torch.optim.Optimizer`; options are those of `LearnedOptimizer`."""
    return Optimizer(params, "", num_steps=num_steps, **options)
''',
    instead=(
        "lopt.torch.theta:read",
        "lopt.torch.rules:built",
        "lopt.torch.rules:RULES",
    ),
)

_FORMS = {"optax": _OPTAX, "torch": _TORCH}

_HEAD = '''\
"""The learned optimizer `{name}`, in one file: needs {needs}, not lopt.

{use}
{about}
Made by `lopt export --format python` of lopt's source, by `HEADER`. Apache-2.0.
"""
'''


def write(
    checkpoint: Checkpoint,
    path: Path,
    *,
    framework: str = "optax",
    overwrite: bool = False,
) -> None:
    """Writes the file; the errors of `source` and of `fileformat.write_file`."""
    text = source(checkpoint, framework).encode()
    fileformat.write_file(path, text, overwrite=overwrite)


def source(checkpoint: Checkpoint, framework: str = "optax") -> str:
    """The file.

    Args:
      checkpoint: the optimizer.
      framework: "optax" or "torch".

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
    factory, form = OPTIMIZERS[header.optimizer], _FORMS[framework]
    name, module = factory.__name__, factory.__module__
    if framework == "torch":
        module, _ = sources.module("lopt.torch.rules").imported[name]
    typed = typed_options(factory, header.options, where="optimizer")
    given = ", ".join(f"{key}={value!r}" for key, value in typed.items())
    load = form.load.format(module=module, name=name, options=given)
    linked = linking.linked(load, form.instead)
    program = folding.folded(linked, ":load", checkpoint.theta)
    about = sources.module(factory.__module__).doc.partition("\n\n")[0]
    parts = [
        _HEAD.format(name=name, about=about, needs=form.needs, use=form.use),
        _imports(program, form.imports),
        f"def _array(shape, text):\n    {form.array}\n",
        f"HEADER = {_text(fileformat.content(header))}",
        f"WEIGHTS = {_weights(jax.device_get(checkpoint.theta))}",
        *layout.code(program),
    ]
    return "\n".join([*parts, ""])


def _text(content: dict[str, Any]) -> str:
    """A literal, in lines that are as full as they can be."""
    string = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
    lines = [""]
    for part in re.findall(rf"(?:{string}|[^'\",])+(?:, |$)", repr(content)):
        if len(lines[-1]) + len(part) > layout.WIDTH:
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
        rows = textwrap.wrap(text, layout.WIDTH)
        lines += [f'"{name}": _array({array.shape!r}, """', *rows, '"""),']
    return "\n".join([*lines, "}"])


def _imports(program: Program, given: Iterable[str]) -> str:
    """What the code reads of other packages, and what is given."""
    read = {name for d in program.definitions for name in read_in(d.node)}
    plain, names = {*given}, {}
    for node in program.imports.values():
        alias = node.names[0]
        if (alias.asname or alias.name).partition(".")[0] not in read:
            continue
        if isinstance(node, ast.Import):
            plain.add(ast.unparse(node).removeprefix("import "))
        else:
            names.setdefault(node.module, []).append(alias.name)
    lines = [f"from {m} import {', '.join(sorted(n))}" for m, n in names.items()]
    return "\n".join(
        [layout.filled(f"import {', '.join(sorted(plain))}"), *sorted(lines)]
    )
