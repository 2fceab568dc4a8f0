"""Type and shape checks are on in tests alone; implicit rank promotion is an error.

Programs are compiled without optimizations, which takes a fifth of the CPU time, and each
of them once for all tests and workers.
"""

import os
import pkgutil
import shutil
import tempfile

import jax
import jaxtyping
import pytest

import lopt

QUICKLY = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):  # XLA aborts where it does not know one
    QUICKLY.append("--xla_cpu_parallel_codegen_split_count=1")
    QUICKLY.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *QUICKLY])
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


CACHE = {
    "jax_compilation_cache_dir": "",
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
COMPILED = "JAX_COMPILATION_CACHE_DIR"


def pytest_configure(config: pytest.Config) -> None:
    """A folder of compiled programs for all processes, made by who starts the workers."""
    if not hasattr(config, "workerinput"):
        os.environ[COMPILED] = tempfile.mkdtemp(prefix="lopt-tests-")
    for name, value in CACHE.items():
        value = os.environ.setdefault(name.upper(), str(value))
        jax.config.update(name, value if name.endswith("_dir") else int(value))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes it."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(COMPILED))


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
def straight(tmp_path_factory):
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


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of pretrained parameters for one test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lopt" / "pretrained"


@pytest.fixture
def start(tmp_path):
    """A file of parameters that the task of `started` may start from."""
    from safetensors.numpy import save_file
    from started import TENSORS

    path = tmp_path / "start.safetensors"
    save_file(TENSORS, path)
    return path
