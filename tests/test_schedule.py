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
from lopt.evaluation.schedule import SEEDS, following, record, schedule
from lopt.families import mlp
from lopt.files import rundir
from lopt.files.fileformat import Header
from lopt.optimizers import OPTIMIZERS
from lopt.optimizers.policy import Policy
from lopt.optimizers.schedule import POINTS, places
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
def feeling(tmp_path_factory):
    """One that decides by all that it measures."""
    found = made(tmp_path_factory.mktemp("b"), bases=("adam", "sgd"), hidden_sizes=())
    network = found.theta["network"]
    w = 0.3 * jax.random.normal(jax.random.key(1), network["w0"].shape)
    return replace(found, theta={"network": {**network, "w0": w}})


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
    params, _ = shallow.init(key, shallow.data)
    control = follow(frozen, prior, shallow, factors(), num_steps)
    ours = prior.lopt.opt_fn(prior.theta, specs=shallow.specs, num_steps=num_steps)
    a, b = (course(optimizer, params, num_steps) for optimizer in (control, ours))
    exact = num_steps in LENGTHS
    for x, y, start in zip(*map(jax.tree.leaves, (a, b, params)), strict=True):
        far = float(jnp.abs(y - start).max())
        assert np.abs(x - y).max() < (2e-4 if exact else 0.1) * far


def test_factors_are_of_the_rate_and_of_the_decay(prior, frozen, shallow, key):
    params, _ = shallow.init(key, shallow.data)

    def first_update(optimizer):
        """Without gradients, all that is left is the decay: −λ ω φ."""
        zeros = jax.tree.map(jnp.zeros_like, params)
        start, value = optimizer.init(params), jnp.asarray(1.0)
        return optimizer.update(zeros, start, params, value=value)[0]["layer_0"]["w"]

    def followed(**theta):
        return first_update(follow(frozen, prior, shallow, factors(**theta), 10))

    ours = prior.lopt.opt_fn(prior.theta, specs=shallow.specs, num_steps=10)
    expected = first_update(ours)
    assert jnp.abs(expected).max() > 1e-3
    np.testing.assert_allclose(followed(), expected, rtol=1e-4)
    np.testing.assert_allclose(followed(learning_rate=3.0), 3 * expected, rtol=1e-4)
    np.testing.assert_allclose(followed(weight_decay=0.5), expected / 2, rtol=1e-4)


def test_a_role_that_was_not_seen_is_like_the_others_of_its_sort(
    prior, frozen, shallow, key
):
    """Hidden matrices follow the mean of input and output; here rates 1 and 3."""
    rates = {("input", True): 1.0, ("output", True): 3.0, ("", True): 2.0}
    assert {*rates} == {kind for kind in frozen.kinds if kind[1]}
    seen = [frozen.kinds.index(kind) for kind in list(rates)[:2]]
    for leaf in (frozen.policy.step_size, frozen.policy.weight_decay):  # 0 of vectors
        unseen = leaf[:, frozen.kinds.index(("", True))]
        np.testing.assert_allclose(unseen, leaf[:, seen].mean(axis=1), rtol=1e-6)
    rate = [[rates.get(kind, 0.0)] * POINTS for kind in frozen.kinds]
    step_size = np.broadcast_to(rate, frozen.policy.step_size.shape).astype(np.float32)
    ones = np.ones_like(step_size)
    policy = frozen.policy._replace(step_size=step_size, weight_decay=ones)
    deeper = mlp(depth=2, **SMALL)
    params, _ = deeper.init(key, deeper.data)
    optimizer = follow(frozen._replace(policy=policy), prior, deeper, factors(), 10)
    zeros = jax.tree.map(jnp.zeros_like, params)
    start, value = optimizer.init(params), jnp.asarray(1.0)
    updates, _ = optimizer.update(zeros, start, params, value=value)
    found = [-updates[f"layer_{i}"]["w"] / params[f"layer_{i}"]["w"] for i in range(3)]
    for ratio, expected in zip(found, (1.0, 2.0, 3.0), strict=True):
        np.testing.assert_allclose(ratio, expected, rtol=1e-4)


@pytest.mark.parametrize("step", [0, 1, 300, 703, 999, 1200])
def test_between_two_places_decisions_are_interpolated(prior, frozen, shallow, key, step):
    """Means whose rate is the step itself: without gradients −λ ω φ tells λ."""
    count = len(frozen.kinds)
    rate = np.broadcast_to(places(1000), (1, count, POINTS)).astype(np.float32)
    policy = jax.tree.map(lambda leaf: leaf[:1], frozen.policy)
    ones = np.ones((1, count, POINTS), np.float32)
    policy = policy._replace(step_size=rate, weight_decay=ones)
    means = frozen._replace(lengths=(1000,), policy=policy)
    params, _ = shallow.init(key, shallow.data)
    optimizer = follow(means, prior, shallow, factors(), 1000)
    state = optimizer.init(params)._replace(step=jnp.asarray(step))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, state, params, value=jnp.asarray(1.0))
    found = -updates["layer_0"]["w"] / params["layer_0"]["w"]
    np.testing.assert_allclose(found, min(step, 999), atol=0.55)


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
    assert "a schedule is a frozen policy" in error.value.message
    assert f"`mine.safetensors`, of `{optimizer}`, has none" in error.value.message
    assert "it is for `layerwise`" in error.value.hint


def test_a_python_file_that_a_card_names_is_not_run(prior, tmp_path):
    python = tmp_path / "task.py"
    python.write_text("raise SystemError('was run')")
    strange = replace(prior, header=replace(prior.header, card={"suite": str(python)}))
    with pytest.raises(ConfigError, match="only if trusted"):
        schedule(strange)


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


@pytest.mark.slow
def test_the_control_is_made_for_what_is_compared(prior):
    save_file(prior, prior.path, overwrite=True)
    quick = load_suite("quick")
    results = evaluate(
        prior.path,
        replace(quick, tasks=quick.tasks[:1]),
        baselines=["schedule"],
        trials=1,
        seeds=2,
        tuning_seeds=1,
        budgets=(0.5, 1.0),
    )
    (task,) = results.tasks
    assert [c.kind for c in task.contenders] == ["learned", "control"]
    control = task.contenders[1].budgets[-1]
    assert control.tuning.schedule == "own"
    factors = {control.tuning.learning_rate, control.tuning.weight_decay}
    assert factors <= {0.0, *(2.0**i for i in range(-9, 10))}
