"""Type and shape checks are on in tests alone; implicit rank promotion is an error."""

import pkgutil

import jax
import pytest
from jaxtyping import install_import_hook

import lopt

jax.config.update("jax_numpy_rank_promotion", "raise")

# Before any test imports them: annotations are checked by beartype, shapes included. Not
# those of `lopt.config`, which checks types itself and tells users what is wrong.
modules = [name for _, name, _ in pkgutil.iter_modules(lopt.__path__, "lopt.")]
modules.remove("lopt.config")
install_import_hook(modules, "beartype.beartype")


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
