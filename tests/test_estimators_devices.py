"""Every estimator in the outer step: over devices, resumed, and for accelerators."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quadratic
from unrolls import estimator_of, two_rates

from lopt.estimators import ESTIMATORS
from lopt.groups import group_tasks
from lopt.suites import SuiteTask
from lopt.trainer import Trainer
from lopt.unroll import unroll


def make_trainer(name: str) -> Trainer:
    """One task, runs of 4 to 12 steps."""

    def make_estimator(entry):
        inner = unroll(
            entry.task, lopt, length=4, min_steps=4, max_steps=12, meta_every=2
        )
        return estimator_of(name, inner, 2)

    lopt = two_rates()
    task = quadratic(curvature=(0.5, 2.0), noise=0.3)
    entry = SuiteTask(task=task, weight=1.0, min_steps=4, max_steps=12, num_steps=12)
    groups = group_tasks([entry], make_estimator)
    return Trainer(lopt, groups, optax.adam(0.1), 10)


def on_host(state):
    def fetch(x):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return x if is_key else np.asarray(x)

    return jax.tree.map(fetch, state)


OFTEN = ("gpes", "tbptt", "full_gradient")  # gpes stands for pes and nres too
SELDOM = sorted({*ESTIMATORS} - {*OFTEN, "pes", "nres"})


@pytest.mark.parametrize(
    "name", [*OFTEN, *(pytest.param(n, marks=pytest.mark.slow) for n in SELDOM)]
)
def test_sharded_resumed_and_lowered(name, key):
    trainer = make_trainer(name)
    state = trainer.init(key)
    for leaf in jax.tree.leaves(state.estimator_states):
        assert (
            len(leaf.sharding.device_set) == 2 and not leaf.sharding.is_fully_replicated
        )
    alone, start = jax.device_put(state, jax.devices()[0]), on_host(state)
    traced = jax.jit(trainer.step).trace(alone, trainer.datas)
    for platform in ("cuda", "tpu"):
        traced.lower(lowering_platforms=(platform,))

    step = trainer.compile(state)
    middle, first = step(state, trainer.datas)
    assert not jax.tree.leaves(middle.estimator_states)[0].sharding.is_fully_replicated
    saved = on_host(middle)
    straight, second = step(middle, trainer.datas)
    again, _ = step(trainer.place(saved), trainer.datas)
    np.testing.assert_array_equal(straight.theta["log_rate"], again.theta["log_rate"])
    _, repeated = step(trainer.place(start), trainer.datas)
    np.testing.assert_array_equal(first.loss, repeated.loss)
    assert float(second.loss) != float(first.loss)

    _, one = traced.lower().compile()(alone, trainer.datas)
    np.testing.assert_allclose(first.loss, one.loss, rtol=1e-5)
    np.testing.assert_allclose(first.grad_norm, one.grad_norm, rtol=1e-3)
    assert int(first.num_steps) == int(one.num_steps) > 0


@pytest.mark.parametrize("name", ["nes", "full_gradient"])
def test_two_devices_do_half_the_work_each(name, key):
    """What one device is to compute, by the compiler's own count."""
    trainer = make_trainer(name)
    state = trainer.init(key)
    alone = jax.device_put(state, jax.devices()[0])
    both, single = (
        trainer._lower(0, s).compile().cost_analysis()["flops"] for s in (state, alone)
    )
    assert both < 0.75 * single


def memory(name: str, length: int, num_steps: int, key, rematerialize=None) -> int:
    """Bytes of temporary memory of one call, on a quadratic of 4096 parameters."""
    task = quadratic(curvature=(0.5,) * 4096)
    inner = unroll(
        task,
        momentum(),
        length=length,
        min_steps=num_steps,
        max_steps=num_steps,
        meta_every=5,
        meta_split="train",
    )
    options = {} if rematerialize is None else {"rematerialize": rematerialize}
    estimator = estimator_of(name, inner, 1, **options)
    theta = momentum().init(key)
    state = estimator.init(theta, key, task.data)
    program = jax.jit(estimator.estimate)
    compiled = program.lower(theta, state, key, task.data, jnp.float32(0)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def momentum():
    """Gradient descent with momentum, whose step is learned and costs some memory."""
    template = two_rates()

    def opt_fn(theta, *, specs=None, num_steps=None):
        del specs, num_steps
        rate = jnp.exp(theta["log_rate"][0])

        def update(grads, state, params=None, **extra):
            del params, extra
            state = jax.tree.map(lambda m, g: 0.9 * m + g, state, grads)
            return jax.tree.map(lambda m: -rate * jnp.sin(jnp.tanh(m)), state), state

        def init(params):
            return jax.tree.map(jnp.zeros_like, params)

        return optax.GradientTransformationExtraArgs(init, update)

    return type(template)(template.init, opt_fn)


PER_STATE = 2 * 4096 * 4
"""Bytes of the parameters and the momentum of one run."""


@pytest.mark.slow
def test_memory_of_whole_runs(key):
    """Flat in the run for ES; for backpropagation a state for each truncation."""
    short, long = (memory("full_es", 10, n, key) for n in (50, 500))
    assert long < short + PER_STATE
    short, long = (memory("full_gradient", 10, n, key) for n in (50, 500))
    assert long - short < 1.3 * 2 * 45 * PER_STATE  # 2 runs, 45 truncations more


def test_memory_of_backpropagation_is_what_is_kept(key):
    """In states a step: less than one, one, or all that a step computes."""
    states = {
        kind: memory("tbptt", 100, 100, key, kind) / (2 * 100 * PER_STATE)
        for kind in ("nothing", "steps", "stretches")
    }
    assert states["stretches"] < 0.6 < states["steps"] < 1.6 < states["nothing"], states
