"""The outer loop: determinism, grouping, sharding, lowering, and that it learns."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quadratic
from trainers import entry, make_trainer, small_mlp
from unrolls import two_rates

from lopt.base import GradientEstimator, LearnedOptimizer, MetaGradient
from lopt.errors import ConfigError
from lopt.groups import data_hashes, group_tasks
from lopt.optimizers.layerwise import layerwise
from lopt.optimizers.learnable import learnable_sgd
from lopt.trainer import Trainer


def leaves_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def advance(trainer, state, num_steps):
    step = trainer.compile(state)
    for _ in range(num_steps):
        state, metrics = step(state, trainer.datas)
    return state, metrics


def test_same_seed_same_bits_and_a_restored_state_continues(key):
    trainer = make_trainer(layerwise(hidden_sizes=()), [entry(small_mlp())])
    straight, _ = advance(trainer, trainer.init(key), 4)
    half, _ = advance(trainer, trainer.init(key), 2)
    on_host = jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x),
        half,
    )
    again, _ = advance(trainer, trainer.place(on_host), 2)
    leaves_equal(straight, again)


def test_compiled_step_is_the_pure_step(key):
    tasks = [entry(small_mlp()), entry(small_mlp(width=6)), entry(quadratic())]
    trainer = make_trainer(learnable_sgd(learning_rate=0.1), tasks)
    state = trainer.init(key)
    pure, pure_metrics = trainer.step(state, trainer.datas)
    state, metrics = advance(trainer, state, 1)
    for a, b in zip(
        jax.tree.leaves(pure.theta), jax.tree.leaves(state.theta), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4)
    np.testing.assert_allclose(pure_metrics.task_losses, metrics.task_losses, rtol=1e-4)


def test_pairs_are_shared_over_devices_without_changing_the_result(key):
    assert len(jax.devices()) == 2, "conftest asks for two host devices"
    lopt = layerwise(hidden_sizes=())
    even = make_trainer(lopt, [entry(small_mlp())], num_pairs=4)
    state = even.init(key)
    sharding = jax.tree.leaves(state.estimator_states)[0].sharding
    assert len(sharding.device_set) == 2 and not sharding.is_fully_replicated
    one = jax.device_put(state, jax.devices()[0])
    two_after, two = advance(even, state, 1)
    one_after, alone = advance(even, one, 1)
    np.testing.assert_allclose(two.loss, alone.loss, rtol=1e-5)
    np.testing.assert_allclose(two.grad_norm, alone.grad_norm, rtol=1e-3)
    shared = jax.tree.leaves(two_after.estimator_states)[0].sharding
    assert not shared.is_fully_replicated
    odd = make_trainer(lopt, [entry(small_mlp())], num_pairs=3)
    advance(odd, odd.init(key), 1)
    del one_after


def test_tasks_of_one_shape_share_a_group_and_weights_sum_to_one():
    tasks = [
        entry(small_mlp(), weight=1.0),
        entry(small_mlp(width=6), weight=2.0),
        entry(small_mlp(), weight=3.0),
        entry(small_mlp(), weight=2.0, max_steps=24),
    ]
    trainer = make_trainer(layerwise(hidden_sizes=()), tasks)
    assert [len(group.names) for group in trainer.groups] == [2, 1, 1]
    assert [group.weights for group in trainer.groups] == [
        (0.125, 0.375), (0.25,), (0.25,),
    ]  # fmt: skip


def test_a_split_that_the_second_task_lacks_is_missed():
    task = small_mlp()
    lacking = replace(task, splits=("train", "valid"), name="lacking")
    with pytest.raises(ConfigError, match="task `lacking` has"):
        make_trainer(layerwise(hidden_sizes=()), [entry(task), entry(lacking)])


def test_the_mixture_weighs_tasks(key):
    """The gradient of a mixture is the weighted mean of its tasks' gradients."""
    curvatures = ((0.5, 1.0), (3.0, 1.0))

    def gradient(*weights):
        tasks = [
            entry(quadratic(curvature=c), weight, min_steps=4, max_steps=4)
            for c, weight in zip(curvatures, weights, strict=True)
        ]
        trainer = make_trainer(two_rates(), tasks, estimator="es", num_pairs=2)
        trainer = replace(trainer, outer_optimizer=optax.sgd(1.0))
        before = trainer.init(key)
        after, _ = trainer.step(before, trainer.datas)
        return before.theta["log_rate"] - after.theta["log_rate"]

    first, second = gradient(1.0, 1e-9), gradient(1e-9, 1.0)
    np.testing.assert_allclose(
        gradient(1.0, 3.0), 0.25 * first + 0.75 * second, rtol=1e-4
    )
    assert np.all(np.abs(first - second) > 1e-4)


def test_meta_training_improves_a_bad_start(key):
    lopt = two_rates(rate=0.01)
    task = quadratic(curvature=(0.5, 2.0))
    trainer = make_trainer(
        lopt, [entry(task)], rate=0.1, num_pairs=256, meta_transform="raw"
    )
    state = trainer.init(key)
    step = trainer.compile(state)
    losses = []
    for _ in range(60):
        state, metrics = step(state, trainer.datas)
        losses.append(float(metrics.loss))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert np.all(np.exp(state.theta["log_rate"]) > 0.1)


def test_theta_never_receives_a_non_finite_update(key):
    def estimate(theta, state, key, data, progress):
        grad = jax.tree.map(lambda t: jnp.full_like(t, jnp.nan), theta)
        return MetaGradient(grad, jnp.float32(0.0), jnp.int32(0), jnp.int32(0)), state

    estimator = GradientEstimator(lambda *_: jnp.zeros((2,)), estimate)
    groups = group_tasks([entry(quadratic())], lambda _: estimator)
    trainer = Trainer(two_rates(), groups, optax.adam(0.1), 10)
    before = trainer.init(key)
    theta, outer = jax.tree.map(np.asarray, (before.theta, before.outer_opt_state))
    after, metrics = advance(trainer, before, 2)
    leaves_equal((theta, outer), (after.theta, after.outer_opt_state))
    assert bool(metrics.skipped) and int(after.step) == 2


def test_no_key_serves_twice(key):
    """Of theta, the estimators, and every task at every outer step, in two groups."""
    used = []

    def row(key):
        return jax.random.key_data(key)[None]

    def estimate(theta, state, key, data, progress):
        grad = jax.tree.map(jnp.zeros_like, theta)
        return MetaGradient(grad, jnp.float32(0), jnp.int32(0), jnp.int32(0)), row(key)

    estimator = GradientEstimator(lambda theta, key, data: row(key), estimate)
    lopt = LearnedOptimizer(lambda key: {"key": row(key)}, two_rates().opt_fn)
    shapes = ((1.0,), (2.0,), (1.0, 1.0))
    tasks = [entry(quadratic(curvature=c)) for c in shapes]
    trainer = Trainer(lopt, group_tasks(tasks, lambda _: estimator), optax.sgd(0.0), 3)
    assert [len(group.names) for group in trainer.groups] == [2, 1]
    state = trainer.init(key)
    used += [row(key), row(state.key), state.theta["key"]]
    for _ in range(3):
        used += [x.reshape(-1, 2) for x in state.estimator_states]
        state, _ = trainer.step(state, trainer.datas)
    used = np.concatenate([*used, *(x.reshape(-1, 2) for x in state.estimator_states)])
    assert len(np.unique(used, axis=0)) == len(used) == 3 + 4 * 3


def test_estimators_are_told_how_far_training_is(key):
    def estimate(theta, state, key, data, progress):
        grad = jax.tree.map(jnp.zeros_like, theta)
        return MetaGradient(grad, progress, jnp.int32(0), jnp.int32(0)), state

    estimator = GradientEstimator(lambda *_: jnp.zeros((2,)), estimate)
    groups = group_tasks([entry(quadratic())], lambda _: estimator)
    trainer = Trainer(two_rates(), groups, optax.sgd(0.0), 4)
    state, told = trainer.init(key), []
    for _ in range(4):
        state, metrics = trainer.step(state, trainer.datas)
        told.append(float(metrics.loss))
    assert told == [0.0, 0.25, 0.5, 0.75]


def test_given_meta_parameters_are_the_start(key):
    trainer = make_trainer(two_rates(), [entry(quadratic(curvature=(1.0, 2.0)))])
    state = trainer.init(key, {"log_rate": np.asarray([1.0, 2.0], np.float32)})
    np.testing.assert_array_equal(state.theta["log_rate"], [1.0, 2.0])


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_outer_step_lowers_for_accelerators(platform, key):
    trainer = make_trainer(layerwise(), [entry(small_mlp())], estimator="pes")
    state = jax.device_put(trainer.init(key), jax.devices()[0])
    exported = jax.export.export(jax.jit(trainer.step), platforms=[platform])(
        state, trainer.datas
    )
    assert exported.platforms == (platform,)


def test_what_is_not_used_is_not_in_the_state(key):
    """Snapshots of runs without it are as they were before it existed."""
    state = make_trainer(two_rates(), [entry(quadratic(curvature=(1.0, 2.0)))]).init(key)
    assert (state.average, state.task_scales, state.selected) == ((), (), ())


def test_data_are_told_apart_by_their_bytes_shapes_and_types():
    def hashes(*datas):
        tasks = [
            entry(replace(quadratic(), name=str(i), data=data))
            for i, data in enumerate(datas)
        ]
        unused = GradientEstimator(lambda *_: None, lambda *_: None)
        groups = group_tasks(tasks, lambda _: unused)
        return {k: v for group in groups for k, v in data_hashes(group).items()}

    x = {"train": jnp.arange(6.0)}
    changed = {"train": x["train"].at[3].set(2.5)}
    one, other, again = hashes(x, changed, x).values()
    assert one == again != other
    assert hashes(x) == {"0": one} and len(one) == 12
    for unlike in (x["train"].reshape(2, 3), x["train"].astype(jnp.int32)):
        assert hashes({"train": unlike})["0"] not in (one, other)
