"""Suites and learned optimizers that come with lopt, by name.

They lie in `tasks/` and `checkpoints/` of a source checkout, and in `lopt/released/` of
an installed wheel.
"""

from pathlib import Path

from lopt.errors import CheckpointError, ConfigError, unknown_name

_PACKAGE = Path(__file__).resolve().parents[1]
_KINDS = {
    "tasks": ("suite", ".toml", ConfigError),
    "checkpoints": ("checkpoint", ".safetensors", CheckpointError),
}


def released(kind: str, name: str) -> Path:
    """The file of a released thing.

    Args:
      kind: "tasks" (suites) or "checkpoints" (exported learned optimizers).
      name: its name, without a suffix.

    Raises:
      ConfigError: no suite of that name is released.
      CheckpointError: no checkpoint of that name is released.
    """
    noun, suffix, error = _KINDS[kind]
    known = released_names(kind)
    if name not in known:
        hint = None if known else f"give the path of a `{suffix}` file"
        raise unknown_name(noun, name, known, hint=hint, error=error)
    return _folder(kind) / f"{name}{suffix}"


def released_names(kind: str) -> tuple[str, ...]:
    """The names of all released "tasks" or "checkpoints", sorted."""
    suffix = _KINDS[kind][1]
    return tuple(sorted(path.stem for path in _folder(kind).glob(f"*{suffix}")))


def locate(path_or_name: str | Path) -> Path:
    """A path that was given or, where nothing is there, a released checkpoint's."""
    path = Path(path_or_name)
    is_name = len(path.parts) == 1 and not path.suffix
    return released("checkpoints", path.name) if is_name and not path.exists() else path


def _folder(kind: str) -> Path:
    installed = _PACKAGE / "released" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind
