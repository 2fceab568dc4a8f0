"""The control `schedule`: what feels nothing is followed exactly; means are means."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lopt import evaluate
from lopt.checkpoint import Checkpoint, save_file
from lopt.config import load_suite, to_dict
from lopt.decisions import recorder
from lopt.errors import ConfigError
from lopt.evaluation.schedule import POINTS, SEEDS, following, places, record, schedule
from lopt.families import mlp
from lopt.files import rundir
from lopt.files.fileformat import Header
from lopt.optimizers import OPTIMIZERS
from lopt.optimizers.policy import Policy
from lopt.options import resolved
from lopt.packing import packing

LENGTHS = (5, 10)
SMALL = {"width": 8, "base_width": 8, "batch_size": 8}
KIND = {"bias": ("bias", False), "input": ("input", True), "hidden": ("hidden", True)}


def made(tmp_path, optimizer="layerwise", **options):
    factory = OPTIMIZERS[optimizer]
    lopt = factory(**options)
    header = Header(
        optimizer=optimizer, options=resolved(factory, options), card={"suite": "quick"}
    )
    theta = lopt.init(jax.random.key(0))
    return Checkpoint(path=tmp_path, lopt=lopt, theta=theta, header=header)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """A policy that knows the step and nothing else, not even the depth."""
    path = tmp_path_factory.mktemp("prior") / "a.safetensors"
    return made(path, hidden_sizes=(), logit_scale=1.0, weight_decay=2.5)


@pytest.fixture(scope="module")
def feeling(prior):
    """One that decides by all that it measures."""
    network = prior.theta["network"]
    w = 0.3 * jax.random.normal(jax.random.key(1), network["w0"].shape)
    return replace(prior, theta={"network": {**network, "w0": w}})


def means_of(checkpoint, tasks):
    devices = jax.devices("cpu")[:1]
    return record(checkpoint, tasks, LENGTHS, devices, lambda text, units: None)


@pytest.fixture(scope="module")
def shallow():
    return mlp(depth=1, **SMALL)


@pytest.fixture(scope="module")
def frozen(prior, shallow):
    return means_of(prior, [shallow])


def course(optimizer, params, steps, decay=1.0):
    """Parameters after some steps on gradients that are given."""
    state = optimizer.init(params)
    for i in range(steps):
        grads = jax.tree.map(lambda p, i=i: jnp.cos(p + 0.1 * i), params)
        updates, state = optimizer.update(grads, state, params, value=jnp.asarray(1.0))
        params = optax.apply_updates(params, updates)
    return params


def factors(learning_rate=1.0, weight_decay=1.0):
    values = {"learning_rate": learning_rate, "weight_decay": weight_decay}
    return {name: jnp.asarray(value) for name, value in values.items()}


def follow(means, checkpoint, task, theta, num_steps):
    lopt = following(means, checkpoint.header.options)
    return lopt.opt_fn(theta, specs=task.specs, num_steps=num_steps)


@pytest.mark.parametrize("num_steps", [*LENGTHS, 11])
def test_a_policy_that_feels_nothing_is_its_own_schedule(
    prior, frozen, shallow, key, num_steps
):
    """11 steps were not recorded: the nearest length's decisions stand in for them."""
    deeper = mlp(depth=3, **SMALL)  # with hidden matrices, which were not seen
    params, _ = deeper.init(key, deeper.data)
    control = follow(frozen, prior, deeper, factors(), num_steps)
    ours = prior.lopt.opt_fn(prior.theta, specs=deeper.specs, num_steps=num_steps)
    a, b = (course(optimizer, params, num_steps) for optimizer in (control, ours))
    exact = num_steps in LENGTHS
    for x, y, start in zip(*map(jax.tree.leaves, (a, b, params)), strict=True):
        far = float(jnp.abs(y - start).max())
        assert np.abs(x - y).max() < (2e-4 if exact else 0.1) * far


def test_factors_are_of_the_rate_and_of_the_decay(prior, frozen, shallow, key):
    params, _ = shallow.init(key, shallow.data)

    def first_update(**theta):
        optimizer = follow(frozen, prior, shallow, factors(**theta), 10)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optimizer.update(
            zeros, optimizer.init(params), params, value=jnp.asarray(1.0)
        )[0]["layer_0"]["w"]

    # Without gradients, all that is left is the decay: −λ ω φ, ω = 2.5.
    expected = -0.03 * 2.5 * params["layer_0"]["w"]
    np.testing.assert_allclose(first_update(), expected, rtol=1e-4)
    np.testing.assert_allclose(first_update(learning_rate=3.0), 3 * expected, rtol=1e-4)
    np.testing.assert_allclose(first_update(weight_decay=0.5), expected / 2, rtol=1e-4)


def test_means_are_over_seeds_and_tensors_then_tasks(feeling, shallow):
    other = mlp(depth=2, **SMALL)
    each = [means_of(feeling, [task]) for task in (shallow, other)]
    both = means_of(feeling, [shallow, other])

    def of(means, kind):
        index = means.kinds.index(KIND[kind])
        return jax.tree.map(lambda leaf: leaf[:, index], means.policy)

    for kind in ("bias", "input"):
        alone = [of(means, kind) for means in each]
        expected = jax.tree.map(lambda *x: np.mean(x, axis=0), *alone)
        jax.tree.map(np.testing.assert_array_equal, of(both, kind), expected)
    assert KIND["hidden"] not in each[0].kinds
    jax.tree.map(np.testing.assert_array_equal, of(both, "hidden"), of(each[1], "hidden"))

    keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), SEEDS)
    run = jax.jit(recorder(feeling, other))
    runs = [run(key, places(10), jnp.asarray(10), other.data)[1] for key in keys]
    roles = [spec.role for spec in packing(other.specs).specs]
    biases = [i for i, role in enumerate(roles) if role == "bias"]
    assert len(biases) == 3
    for name in Policy._fields:
        values = np.stack([np.asarray(getattr(run, name))[:, biases] for run in runs])
        found = getattr(of(each[1], "bias"), name)[LENGTHS.index(10)]
        np.testing.assert_allclose(found, values.mean(axis=(0, 2)), rtol=1e-5)
        assert name == "weight_decay" or values.std() > 0


def test_places_are_all_steps_of_a_run_and_denser_at_its_start():
    assert sorted(set(places(10).tolist())) == list(range(10))
    steps = places(2000)
    assert steps.shape == (POINTS,) and (steps[0], steps[-1]) == (0, 1999)
    assert steps[1] <= 1 and steps[10] <= 21
    assert places(1).tolist() == [0] * POINTS


def test_tensors_of_a_sort_that_was_not_seen_are_refused(frozen, prior, shallow):
    vectors = [i for i, kind in enumerate(frozen.kinds) if not kind[1]]
    policy = jax.tree.map(lambda leaf: leaf[:, vectors], frozen.policy)
    kinds = tuple(frozen.kinds[i] for i in vectors)
    means = frozen._replace(kinds=kinds, policy=policy)
    params, _ = shallow.init(jax.random.key(0), shallow.data)
    control = follow(means, prior, shallow, factors(), 10)
    with pytest.raises(ConfigError, match="has seen no matrices"):
        course(control, params, 1)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [("mlp", {}), ("layerwise", {"embedding_size": 2, "num_tensors": 4})],
)
def test_an_optimizer_without_a_policy_for_any_network_has_no_schedule(
    tmp_path, optimizer, options
):
    path = tmp_path / "mine.safetensors"
    save_file(made(path, optimizer, **options), path)
    with pytest.raises(ConfigError) as error:
        evaluate(path, "quick", baselines=["schedule"], trials=1, seeds=2)
    assert "`schedule` freezes a policy" in error.value.message
    assert f"`mine.safetensors`, of `{optimizer}`, has none" in error.value.message
    assert "it is for `layerwise`" in error.value.hint


def test_a_file_that_does_not_name_its_suite_has_no_schedule(prior):
    unknown = replace(prior, header=replace(prior.header, card={}))
    with pytest.raises(ConfigError, match="its card names none") as error:
        schedule(unknown)
    assert "the run's folder" in error.value.hint
    lost = replace(prior, header=replace(prior.header, card={"suite": "gone.toml"}))
    with pytest.raises(ConfigError, match=r"cannot read suite `gone\.toml`"):
        schedule(lost)


@pytest.mark.parametrize("place", [".", f"{rundir.CHECKPOINTS}/5"])
def test_of_a_run_the_tasks_are_those_of_its_configuration(prior, tmp_path, place):
    config = to_dict(load_suite("quick", ["tasks.0.label_noise=2"]))
    (tmp_path / rundir.CONFIG).write_text(json.dumps(config))
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    with pytest.raises(ConfigError, match=r"`tasks\.0\.label_noise` must be a number"):
        schedule(replace(prior, path=tmp_path / place))


def test_controls_alone_are_compared_with(prior):
    save_file(prior, prior.path, overwrite=True)
    results = evaluate(
        prior.path,
        "quick",
        baselines=["static", "schedule"],
        trials=1,
        seeds=2,
        tuning_seeds=1,
        budgets=(0.5, 1.0),
    )
    task = results.tasks[0]
    assert [c.kind for c in task.contenders] == ["learned", "control", "control"]
    assert task.best_baseline in ("static", "schedule")
    lowest = min(over.value for over in task.speed_up_over.values())
    assert task.speed_up.value == pytest.approx(lowest)
    tuning = task.contenders[2].budgets[-1].tuning
    assert tuning.schedule == "own"
    assert {tuning.learning_rate, tuning.weight_decay} <= {2.0**i for i in range(-9, 9)}
