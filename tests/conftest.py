"""Type and shape checks are on in tests alone; implicit rank promotion is an error."""

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)

# Before any test imports lopt: beartype checks annotations, shapes included. With the
# numeric tower, that is as everywhere else: an int will do for a float.
jaxtyping.install_import_hook(
    "lopt", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
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
