"""Type and shape checks are on in tests alone; implicit rank promotion is an error."""

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")

# Before any test imports lopt: annotations are checked by beartype, shapes included.
install_import_hook("lopt", "beartype.beartype")


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
