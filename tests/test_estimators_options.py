"""Options of estimators: what is wrong is named before anything compiles."""

import pytest
from unrolls import make_unroll

from lopt import options
from lopt.config import load_suite
from lopt.errors import ConfigError
from lopt.estimators import ESTIMATORS
from lopt.run.build import build

GOOD = {
    "num_pairs": 2,
    "num_runs": 2,
    "population": 2,
    "sigma": 0.1,
    "sigma_end": 0.01,
    "period": 2,
    "clip_norm": 1.0,
    "rematerialize": "nothing",
}
TAKES = {
    "es": {"num_pairs", "sigma", "sigma_end"},
    "forward_gradient": {"num_runs"},
    "full_es": {"num_pairs", "sigma", "sigma_end"},
    "full_gradient": {"num_runs", "clip_norm", "rematerialize"},
    "gpes": {"num_pairs", "sigma", "sigma_end", "period"},
    "mixed": {"num_pairs", "sigma", "sigma_end", "clip_norm", "rematerialize"},
    "nes": {"population", "sigma", "sigma_end"},
    "nres": {"num_pairs", "sigma", "sigma_end"},
    "pes": {"num_pairs", "sigma", "sigma_end"},
    "tbptt": {"num_runs", "clip_norm", "rematerialize"},
}
BAD = [
    ("num_pairs", 0, r"must be at least [12], got 0"),
    ("num_pairs", 1.5, r"must be an integer, got 1.5"),
    ("num_runs", 0, "must be at least 1, got 0"),
    ("population", 7, "must be an even number, at least 2, got 7"),
    ("population", 0, "must be an even number, at least 2, got 0"),
    ("sigma", 0, "must be positive, got 0"),
    ("sigma", -1.0, "must be positive, got -1.0"),
    ("sigma", "big", "must be a number, got 'big'"),
    ("sigma", {}, "must have a number for some meta-parameters, got {}"),
    ("sigma_end", -0.1, "must be positive, got -0.1"),
    ("period", 0, "must be at least 1, got 0"),
    ("clip_norm", -1, "must not be negative, got -1.0"),
    ("rematerialize", "step", "must be `nothing` or `steps` or `stretches`, got 'step'"),
]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_each_estimator_takes_its_options_and_names_the_wrong_ones(name, unchecked_types):
    _, inner = make_unroll(4)
    factory = ESTIMATORS[name]
    for option, value in GOOD.items():
        if option in TAKES[name]:
            options.build(factory, {option: value}, inner, where="estimator")
            continue
        with pytest.raises(ConfigError, match=f"unknown key of `estimator` `{option}`"):
            options.build(factory, {option: value}, inner, where="estimator")
    for option, value, message in BAD:
        if option in TAKES[name]:
            with pytest.raises(ConfigError, match=f"`estimator.{option}` {message}"):
                options.build(factory, {option: value}, inner, where="estimator")


def test_a_sigma_below_zero_in_a_table_is_named():
    _, inner = make_unroll(4)
    for option in ("sigma", "sigma_end"):
        with pytest.raises(ConfigError, match=f"`{option}.w` must be positive, got -1"):
            ESTIMATORS["pes"](inner, **{option: {"default": 0.1, "w": -1}})


SUITE = """
outer_steps = 2
[optimizer]
name = "mlp"
[estimator]
name = "pes"
[unroll]
length = 10
[[tasks]]
family = "mlp"
width = 4
depth = 1
min_steps = 10
"""


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "suite.toml"
    path.write_text(SUITE)
    return path


@pytest.mark.parametrize("name", ["es", "nes", "full_es", "mixed"])
def test_prefixes_that_no_meta_parameter_has_are_named_before_compiling(name, suite):
    first = f'estimator.name="{name}"'
    with pytest.raises(ConfigError) as error:
        build(load_suite(suite, [first, "estimator.sigma={default=0.1, netwrk=0.2}"]))
    assert error.value.message == (
        "`estimator.sigma` must name meta-parameters by a prefix of their paths, "
        "got 'netwrk'"
    )
    assert "`network/" in error.value.hint
    with pytest.raises(ConfigError, match=r"estimator.sigma` must have `default` or a"):
        build(load_suite(suite, [first, 'estimator.sigma={"network/w0"=0.2}']))
    build(load_suite(suite, [first, "estimator.sigma={network=0.2}"]))
    with pytest.raises(ConfigError, match="got 'net'"):  # a part of a name is no prefix
        build(load_suite(suite, [first, "estimator.sigma={default=0.1, net=0.2}"]))


ZERO = """
import jax
import jax.numpy as jnp
from lopt.base import GradientEstimator, MetaGradient

def zero(unroll, *, num_runs: int = 2):
    def estimate(theta, state, key, data, progress):
        none = jnp.int32(0)
        grad = jax.tree.map(jnp.zeros_like, theta)
        return MetaGradient(grad, jnp.float32(unroll.length), none, none), state

    return GradientEstimator(lambda *_: jnp.zeros(num_runs), estimate)
"""


def test_an_estimator_from_a_file(suite, tmp_path, key):
    path = tmp_path / "mine.py"
    path.write_text(ZERO)
    config = load_suite(suite, [f'estimator.name="{path}:zero"', "estimator.num_runs=4"])
    with pytest.raises(ConfigError, match="only if trusted"):
        build(config)
    trainer = build(config, trust=True)
    state = trainer.init(key)
    assert state.estimator_states[0].shape == (1, 4)
    _, metrics = trainer.step(state, trainer.datas)
    assert float(metrics.loss) == 10 and float(metrics.grad_norm) == 0
