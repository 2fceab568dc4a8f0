"""What takes part in a step: draws without bias, curricula, and runs that use them."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quadratic
from toy_runs import OUTER, TOY, assert_same_run, toy_run
from trainers import entry, make_trainer
from unrolls import two_rates

from lopt.config import load_suite
from lopt.errors import ConfigError
from lopt.mixtures import Mixture
from lopt.run.build import build
from lopt.run.selection import build_selector

WEIGHTS = (0.5, 0.2, 0.15, 0.15)


def mixture(weights=WEIGHTS, enters=None, number=2, outer_steps=10, seed=0):
    return Mixture(
        weights=weights,
        enters=enters or (0.0,) * len(weights),
        number=number,
        outer_steps=outer_steps,
        seed=seed,
    )


def every_draw(drawing, done=0):
    """Each draw's factors and its probability: all orders, all places to start."""
    size = len(drawing.weights)
    # Between these one place is like another: all probabilities are multiples of 0.05.
    cuts = np.linspace(0, 1, 21)
    orders = list(itertools.permutations(range(size)))
    for order, start in itertools.product(orders, (cuts[1:] + cuts[:-1]) / 2):
        factors = drawing.factors_of(done, order, start)
        yield np.asarray(factors), 1 / len(orders) / (len(cuts) - 1)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_draws_of_the_asked_number_have_the_weights_as_their_mean(number):
    drawing, mean, chances = mixture(number=number), 0.0, 0.0
    for factors, probability in every_draw(drawing):
        assert np.sum(factors > 0) == number
        np.testing.assert_allclose(np.dot(factors, WEIGHTS), 1.0)
        mean = mean + probability * factors
        chances = chances + probability * (factors > 0)
    np.testing.assert_allclose(mean, 1.0, rtol=1e-12)
    expected = {1: WEIGHTS, 2: [1, 0.4, 0.3, 0.3], 3: [1, 0.8, 0.6, 0.6]}[number]
    np.testing.assert_allclose(chances, expected, rtol=1e-12)


def test_one_weight_may_leave_others_certain_in_turn():
    (factors, _), *_ = every_draw(mixture((0.7, 0.2, 0.05, 0.05), number=3))
    np.testing.assert_allclose(factors[:2], 1.0)
    np.testing.assert_allclose(sorted(factors[2:]), [0.0, 2.0])


def test_any_two_may_be_drawn_together():
    equal = mixture((0.25,) * 4)
    pairs = {tuple(np.flatnonzero(factors)) for factors, _ in every_draw(equal)}
    assert pairs == set(itertools.combinations(range(4), 2))


def test_draws_depend_on_seed_and_step_alone():
    def draws(seed):
        return [mixture(seed=seed, outer_steps=99).factors(step) for step in range(99)]

    assert draws(1) == draws(1) != draws(2)
    assert len(set(draws(1))) == 3  # the first, and one of the others
    equal = replace(mixture((0.25,) * 4), outer_steps=99)
    pairs = {tuple(np.flatnonzero(equal.factors(step))) for step in range(99)}
    assert len(pairs) == 6
    often = np.mean([np.asarray(f) > 0 for s in range(30) for f in draws(s)], axis=0)
    np.testing.assert_allclose(often, [1, 0.4, 0.3, 0.3], atol=0.03)


def test_a_task_enters_in_its_time_and_the_weights_sum_to_one():
    drawing = mixture((0.4, 0.4, 0.2), enters=(0.0, 0.3, 0.7), number=0)
    factors = np.asarray([drawing.factors(done) for done in range(10)])
    np.testing.assert_array_equal(np.argmax(factors > 0, axis=0), [0, 3, 7])
    np.testing.assert_allclose(factors @ [0.4, 0.4, 0.2], 1.0)
    np.testing.assert_allclose(factors[5], [1.25, 1.25, 0.0])
    few = replace(drawing, number=1)
    assert few.factors(2) == (2.5, 0.0, 0.0)
    assert all(factors[2] == 0 for factors, _ in every_draw(few, done=3))


@pytest.fixture(scope="module")
def trainer():
    """Three groups, for their runs are not of one length."""
    tasks = [
        entry(quadratic(curvature=c), weight, min_steps=steps, max_steps=steps)
        for c, weight, steps in (((0.5, 1), 2, 4), ((3, 1), 1, 8), ((0.1, 0.2), 1, 12))
    ]
    trainer = make_trainer(two_rates(), tasks, estimator="es", num_pairs=2)
    drawing = mixture((0.5, 0.25, 0.25), number=2)
    return replace(trainer, outer_optimizer=optax.sgd(1.0), mixture=drawing)


def test_the_expected_step_is_the_step_of_all_groups(trainer, key):
    state, chances = trainer.init(key), {}
    assert trainer.groups_per_step == 2 < len(trainer.groups)
    for factors, probability in every_draw(trainer.mixture):
        drawn = tuple(factors)
        chances[drawn] = chances.get(drawn, 0.0) + probability
    assert len(chances) == 2  # the first always takes part
    step = trainer.compile(state)

    def moved(factors):
        particles = jax.tree.map(jnp.copy, state.estimator_states)  # they are donated
        after, _ = step(
            state._replace(estimator_states=particles), trainer.datas, factors
        )
        return np.asarray(after.theta["log_rate"] - state.theta["log_rate"])

    steps = [chance * moved(factors) for factors, chance in chances.items()]
    np.testing.assert_allclose(sum(steps), moved(None), rtol=1e-4)
    assert np.all(np.abs(steps[0] - steps[1]) > 1e-3 * np.abs(moved(None)))


def test_what_rests_waits_and_is_not_counted(trainer, key):
    trainer = replace(trainer, normalize_tasks=True)
    state = trainer.init(key)
    waiting = jax.tree.map(np.asarray, state.estimator_states[1])
    step = trainer.compile(state)
    after, metrics = step(state, trainer.datas, (1.0, 0.0, 2.0))
    jax.tree.map(np.testing.assert_array_equal, waiting, after.estimator_states[1])
    np.testing.assert_array_equal(metrics.stepped, [True, False, True])
    assert metrics.task_losses[1] == 0 != metrics.task_losses[0]
    np.testing.assert_allclose(
        metrics.loss, 0.5 * (metrics.task_losses[0] + metrics.task_losses[2]), rtol=1e-5
    )
    assert int(metrics.num_steps) == 2 * 4 * 4
    np.testing.assert_array_equal(after.task_scales.number, [1, 0, 1])
    after, metrics = step(after, trainer.datas, (0.0, 4.0, 0.0))
    np.testing.assert_array_equal(after.task_scales.number, [1, 1, 1])
    # The first meta-gradient of a task gets norm 1, whenever that is.
    np.testing.assert_allclose(metrics.grad_norm, 1.0, rtol=1e-5)


FILE = TOY.with_name("toy.py")
TASKS = ", ".join(
    f'{{file = "{FILE}", name = "{name}", min_steps = 2, max_steps = {steps}, '
    f"weight = {weight}, enters = {enters}}}"
    for name, steps, weight, enters in (
        ("a", 6, 1, 0), ("b", 4, 2, 0), ("c", 4, 1, 0), ("d", 8, 1, 0.5),
    )
)  # fmt: skip
MIXED = (f"tasks=[{TASKS}]", "tasks_per_step=2", *OUTER)


def test_runs_say_what_took_part_and_resume_to_the_same_bits(tmp_path):
    whole = toy_run(tmp_path / "whole", overrides=MIXED)
    took_part = [sorted(line["task_losses"]) for line in whole.metrics]
    trainer = build(load_suite(TOY, MIXED), trust=True)
    for done, names in enumerate(took_part):
        drawn = zip(trainer.groups, trainer.factors(done), strict=True)
        assert names == sorted(n for g, factor in drawn if factor for n in g.names)
    assert all(names == ["a", "b", "c"] for names in took_part[:4])  # all there are
    later = {tuple(names) for names in took_part[4:]}
    assert later <= {("a", "b", "c"), ("b", "c", "d")} and len(later) == 2
    for line in whole.metrics:
        assert None not in line["task_losses"].values()
    stopped = tmp_path / "stopped"
    with pytest.raises(RuntimeError):
        toy_run(stopped, overrides=MIXED, progress=Stop())
    resumed = toy_run(stopped, overrides=MIXED, resume=True)
    assert resumed.metrics[0]["step"] == 1 and len(resumed.metrics) == 7
    assert_same_run(tmp_path / "whole", stopped)


class Stop:
    """A `Progress` that ends a run after its fifth step."""

    def note(self, text):
        """Nothing."""

    compiled = selected = lambda *_: None

    def stepped(self, metrics, outer_steps):
        """Enough."""
        if metrics["step"] == 5:
            raise RuntimeError


def test_what_asks_for_no_mixture_has_none():
    plain = load_suite(TOY)
    assert build(plain, trust=True).mixture is None
    config = load_suite(TOY, [f"tasks=[{TASKS}]", "tasks.3.enters=0.0"])
    assert build(config, trust=True).mixture is None
    assert build(replace(config, tasks_per_step=3), trust=True).mixture is None
    twins = build(load_suite(TOY, [f"tasks=[{TASKS}]", "tasks.2.enters=0.2"]), trust=True)
    assert [g.names for g in twins.groups] == [("a",), ("b",), ("c",), ("d",)]
    assert twins.mixture is not None and twins.mixture.enters == (0, 0, 0.2, 0.5)
    trainer = build(replace(config, tasks_per_step=1), trust=True)
    assert trainer.mixture is not None and trainer.groups_per_step == 1
    assert trainer.mixture.weights == (0.2, pytest.approx(0.6), 0.2)


def test_selection_counts_the_groups_that_take_part():
    config = load_suite(TOY, MIXED)
    trainer = build(config, trust=True)
    selector = build_selector(config, trainer, trust=True)
    assert selector is not None and len(trainer.groups) == 3
    assert selector.chain == 2 * config.unroll.length


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("tasks_per_step=3", "`tasks_per_step` must be from 0, for all, to the number"),
        ("tasks.1.enters=1.0", "`tasks.1.enters` must be at least 0 and less than 1"),
        ("tasks.0.enters=-0.1", "`tasks.0.enters` must be at least 0 and less than 1"),
    ],
)
def test_mistakes_are_told(override, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load_suite("quick", [override])


def test_training_starts_with_a_task():
    late = ["tasks.0.enters=0.2", "tasks.1.enters=0.1"]
    with pytest.raises(ConfigError, match="enters` must be 0 for one task at least"):
        load_suite("quick", late)
