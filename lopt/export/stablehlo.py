"""The compiled update as a folder: `init` and `update` for given shapes, in StableHLO.

    init.jax, update.jax  serialized by `jax.export`, for CPUs, GPUs and TPUs
    README.md             what they take and return, and how they are called

Any jax of the six months that follow reads them (`jax.export`'s promise), with
flatbuffers; lopt is not needed. Parameters are a dict of arrays by name, states a tuple.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import safetensors
from jax import export

from lopt.base import Array
from lopt.checkpoint import Checkpoint
from lopt.errors import ConfigError
from lopt.files import fileformat
from lopt.files.fileformat import METADATA_KEY

PLATFORMS = ("cpu", "cuda", "tpu")
INIT, UPDATE, CARD = "init.jax", "update.jax", "README.md"

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}

Shapes = Mapping[str, jax.ShapeDtypeStruct]

_TEXT = """\
# {name}: the update of `{optimizer}`, compiled

A learned optimizer of lopt for parameters of these shapes{steps},
exported by jax {version}. It runs with jax and flatbuffers, without lopt, on {platforms}:

```python
from pathlib import Path

from jax import export

def program(name):
    return export.deserialize(bytearray(Path("{name}", name).read_bytes())).call

init, update = program("{init}"), program("{update}")
state = init(params)
updates, state = update(grads, state, params, loss)  # loss: a float32 scalar
params = {{name: params[name] + updates[name] for name in params}}
```

`params`, `grads` and `updates` are dicts of these arrays, `state` is a tuple. Call them
inside of `jax.jit`. What jax exports, it reads for six months of later versions.

| parameter | shape | dtype |
|---|---|---|
{rows}
"""


def write(
    checkpoint: Checkpoint, path: Path, *, like: Path, num_steps: int | None = None
) -> None:
    """Writes the folder; the errors of `parts`, `shapes_of` and `write_folder`."""
    shapes = shapes_of(like)
    files = parts(checkpoint, shapes, num_steps=num_steps, name=path.name)
    fileformat.write_folder(path, files)


def parts(
    checkpoint: Checkpoint, shapes: Shapes, *, num_steps: int | None, name: str
) -> dict[str, bytes]:
    """The files of the folder.

    Args:
      checkpoint: the optimizer.
      shapes: of the parameters.
      num_steps: the run length that is compiled in; None where none is needed.
      name: of the folder.

    Raises:
      ConfigError: the optimizer needs the run length.
    """
    opt_fn, theta = checkpoint.lopt.opt_fn, checkpoint.theta
    try:
        optimizer = opt_fn(theta, num_steps=num_steps)
    except TypeError as error:
        hint = "add `--num-steps N`, the length of the training run"
        raise ConfigError(f"{error}", hint=hint) from error
    structure = jax.tree.structure(jax.eval_shape(optimizer.init, shapes))

    def init(params: dict[str, Array]) -> tuple[Array, ...]:
        return tuple(jax.tree.leaves(optimizer.init(params)))

    def update(grads, state, params, loss):
        whole = jax.tree.unflatten(structure, state)
        updates, whole = optimizer.update(grads, whole, params, value=loss)
        return updates, tuple(jax.tree.leaves(whole))

    params = dict(shapes)
    state = jax.eval_shape(init, params)
    loss = jax.ShapeDtypeStruct((), jnp.float32)
    text = _TEXT.format(
        name=name,
        optimizer=checkpoint.header.optimizer,
        steps=f" and runs of {num_steps} steps" if num_steps else "",
        version=jax.__version__,
        platforms=", ".join(PLATFORMS),
        init=INIT,
        update=UPDATE,
        rows="\n".join(
            f"| `{k}` | {list(x.shape)} | {x.dtype} |" for k, x in params.items()
        ),
    )
    return {
        INIT: _serialized(init, params),
        UPDATE: _serialized(update, params, state, params, loss),
        CARD: text.encode(),
    }


def _serialized(function, *args) -> bytes:
    exported = export.export(jax.jit(function), platforms=PLATFORMS)(*args)
    try:
        return bytes(exported.serialize())
    except ImportError as error:  # jax names the package, and no more
        raise ConfigError(
            "`--format stablehlo` needs the package `flatbuffers`",
            hint="`pip install 'lopt[stablehlo]'`",
        ) from error


def shapes_of(path: Path) -> Shapes:
    """Names and shapes of the parameters in a safetensors file.

    Raises:
      ConfigError: it is none, it is an optimizer of lopt, or it holds no parameters or
        what no gradient is of.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            found = {name: file.get_slice(name) for name in file.keys()}
            metadata = file.metadata() or {}
            kinds = {name: x.get_dtype() for name, x in found.items()}
            shapes = {name: tuple(x.get_shape()) for name, x in found.items()}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"`--like` must be a safetensors file, got `{path}`: {reason}",
            hint="save the parameters by `safetensors.numpy.save_file`",
        ) from error
    if METADATA_KEY in metadata:
        raise ConfigError(
            f"`--like` must hold a model's parameters, got the optimizer `{path}`",
            hint="save the parameters by `safetensors.numpy.save_file`",
        )
    if not kinds:
        raise ConfigError(f"`--like` must hold parameters, got none in `{path}`")
    for name, kind in kinds.items():
        if kind not in _DTYPES:
            known = ", ".join(f"`{k}`" for k in _DTYPES)
            raise ConfigError(f"`{name}` of `{path}` must be of {known}, got `{kind}`")
    return {
        name: jax.ShapeDtypeStruct(shapes[name], _DTYPES[kind])
        for name, kind in sorted(kinds.items())
    }
