"""Type and shape checks are on in tests alone; implicit rank promotion is an error."""

import pkgutil

import jax
import jaxtyping
import pytest

import lopt

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)

# Before any test imports them: annotations are checked by beartype, shapes included. Not
# those of `config`, which checks types itself and tells users what is wrong, nor of
# `cli`, whose annotations are typer's. With the numeric tower, that is as everywhere
# else: an int will do for a float.
modules = {name for _, name, _ in pkgutil.iter_modules(lopt.__path__, "lopt.")}
jaxtyping.install_import_hook(
    sorted(modules - {"lopt.config", "lopt.cli"}),
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture
def unchecked_types():
    """Calls as they are outside of tests: our own complaints instead of beartype's."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
