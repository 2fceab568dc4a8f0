"""Type and shape checks are on in tests alone; implicit rank promotion is an error.

Programs are compiled without LLVM's optimizations: a third less time for all tests.
"""

import os
import pkgutil

import jax
import jaxtyping
import pytest

import lopt

QUICKLY = "--xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICKLY}"
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


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder of compiled programs: the same one is not compiled in each test."""
    from jax.experimental.compilation_cache import compilation_cache
    from toy_runs import CACHE

    folder = tmp_path_factory.getbasetemp() / "compiled"
    before = {name: getattr(jax.config, name) for name in CACHE}
    for name, value in {**CACHE, "jax_compilation_cache_dir": str(folder)}.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def straight(compiled, tmp_path_factory):
    """An uninterrupted run of the toy suite; not to be changed."""
    from toy_runs import toy_run

    return toy_run(tmp_path_factory.mktemp("straight") / "run")


@pytest.fixture(scope="module")
def original():
    """A checkpoint with few weights."""
    from exported import made

    return made("layerwise", bases=("adam", "sgd"), hidden_sizes=(3,), prior_logits={})


@pytest.fixture
def file(original, tmp_path):
    """Its exported file."""
    from lopt.checkpoint import save_file

    path = tmp_path / "x.safetensors"
    save_file(original, path)
    return path
