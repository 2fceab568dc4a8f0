"""Selection: scores with known answers, which theta wins, and what it may cost."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import quadratic, quadratic_descent
from unrolls import two_rates

from lopt.base import LearnedOptimizer
from lopt.config import load_suite
from lopt.errors import ConfigError
from lopt.run.selection import Selector, build_selector, chosen, describe
from lopt.suites import SuiteTask
from lopt.trainer import Trainer, TrainState

TOY = Path(__file__).parent / "toy"
TRAINER = Trainer(two_rates(), (), optax.sgd(0.1), 1)
START = jnp.asarray([2.0, -1.5])


def still(curvature=(0.5, 2.0), **options):
    """A quadratic whose runs start at one place; `valid` has another center."""
    task = quadratic(curvature=curvature, **options)
    data = task.data | {"valid": task.data["valid"] | {"center": jnp.asarray([0.3, 0.4])}}
    return replace(task, data=data, init=lambda key, data: ({"w": START}, ()))


def entry(task, num_steps=6, weight=1.0, name="still"):
    task = replace(task, name=name)
    return SuiteTask(
        task=task, weight=weight, min_steps=100, max_steps=100, num_steps=num_steps
    )


def make_selector(*tasks, seeds=2, share=0.05, chain=10**6, lopt=None):
    return Selector(
        lopt=lopt or two_rates(),
        tasks=tasks,
        seeds=seeds,
        share=share,
        chain=chain,
        key=jax.random.key(1),
    )


def make_state(selector, rate=0.2, average=None) -> TrainState:
    """A state at step 0 of which a selector needs no more."""

    def theta(rate):
        return {"log_rate": jnp.log(jnp.asarray([rate, rate]))}

    state = TrainState(theta(rate), (), (), jnp.zeros((), jnp.int32), jax.random.key(0))
    if average is not None:
        state = state._replace(average=theta(average))
    return selector.start(state)


def at_step(state, step, credit=0.0):
    selected = state.selected._replace(credit=jnp.float32(credit))
    return state._replace(step=jnp.asarray(step, jnp.int32), selected=selected)


def final_loss(task, rate, num_steps, split="valid"):
    w = quadratic_descent(task.data, START, rate, num_steps)
    return float(task.loss({"w": w}, (), task.data[split], None)[0])


def test_scores_are_log_losses_on_valid_at_the_end_of_whole_runs():
    """Of two tasks with different run lengths, for theta and for its average."""
    slow, fast = still(), still(curvature=(1.0, 4.0))
    selector = make_selector(
        entry(slow, 6, name="slow"), entry(fast, 9, weight=3.0, name="fast")
    )
    state = at_step(make_state(selector, rate=0.2, average=0.1), 5)
    state, line = selector.select(state, selector.compile(state))
    for name, rate in (("raw", 0.2), ("average", 0.1)):
        losses = final_loss(slow, rate, 6), final_loss(fast, rate, 9)
        got = line["task_scores"][name]
        np.testing.assert_allclose([got["slow"], got["fast"]], np.log(losses), rtol=1e-4)
        mean = 0.25 * np.log(losses[0]) + 0.75 * np.log(losses[1])
        np.testing.assert_allclose(line["scores"][name], mean, rtol=1e-4)
    # Another split would have been noticed.
    assert abs(final_loss(slow, 0.2, 6) - final_loss(slow, 0.2, 6, "meta")) > 0.01
    assert line["inner_steps"] == selector.cost(state) == (6 + 9) * 2 * 2
    assert line["step"] == 5


def test_a_run_that_diverged_counts_as_the_loss_bound():
    task = still(loss_bound=7.0)
    selector = make_selector(entry(task, 40))
    state = at_step(make_state(selector, rate=50.0), 1)
    _, line = selector.select(state, selector.compile(state))
    np.testing.assert_allclose(line["scores"]["raw"], np.log(7.0), rtol=1e-6)


def test_seeds_are_the_same_at_every_selection_and_several():
    task = quadratic(curvature=(0.5, 2.0), noise=0.5)
    scores = {}
    for seeds in (1, 2, 3):
        selector = make_selector(entry(task), seeds=seeds)
        state = at_step(make_state(selector), 1)
        score = selector.compile(state)
        _, first = selector.select(state, score)
        _, second = selector.select(at_step(state, 9), score)
        assert first["scores"] == second["scores"]
        scores[seeds] = first["scores"]["raw"]
    assert len(set(scores.values())) == 3


def test_seeds_are_not_those_of_training():
    sets = [f"selection.suite={TOY / 'selection.toml'}"]
    config = load_suite(TOY / "toy.toml", sets)
    trainer = TRAINER
    first = build_selector(config, trainer, trust=True)
    other = build_selector(replace(config, seed=1), trainer, trust=True)
    own = jax.random.key(config.seed)
    for used in (own, *jax.random.split(own, 3), other.key):
        assert np.any(jax.random.key_data(used) != jax.random.key_data(first.key))


def play(scores, steps=None):
    """Selections whose scores are given; the state after each."""
    selector = make_selector(entry(still()))
    state, states = make_state(selector, average=0.1), []
    for step, given in enumerate(scores, 1):
        theta = {"log_rate": jnp.full(2, float(step))}
        average = {"log_rate": jnp.full(2, -float(step))}
        state = at_step(state._replace(theta=theta, average=average), step)
        pair = dict(zip(("raw", "average"), given, strict=True))
        score = {name: {"still": value} for name, value in pair.items()}
        state, line = selector.select(state, lambda thetas, score=score: score)
        assert line["scores"] == pytest.approx(pair)
        assert line["selected"] == describe(state.selected)
        states.append(state)
    return states


@pytest.mark.parametrize(
    ("scores", "step", "weights"),
    [
        ([(3, 4), (1, 2), (2, 5)], 2, "raw"),
        ([(3, 2), (4, 3), (5, 6)], 1, "average"),
        ([(3, 3), (3, 3)], 1, "raw"),  # a tie changes nothing
        ([(3, 4), (2, 1), (1.5, 1.5)], 2, "average"),
        ([(3, 4), (2, 1), (0, -1)], 3, "average"),
    ],
)
def test_the_lowest_score_wins(scores, step, weights):
    state = play(scores)[-1]
    best = min(map(min, scores))
    assert describe(state.selected) == {"step": step, "weights": weights, "score": best}
    sign = 1 if weights == "raw" else -1
    np.testing.assert_array_equal(chosen(state)["log_rate"], np.full(2, sign * step))


def test_without_a_selection_the_average_or_theta_is_chosen():
    selector = make_selector(entry(still()))
    state = make_state(selector, rate=0.5, average=0.1)
    assert describe(state.selected) is None
    assert chosen(state) is state.average
    assert chosen(state._replace(average=())) is state.theta
    assert chosen(state._replace(average=(), selected=())) is state.theta


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 1.0])
@pytest.mark.parametrize(
    ("per_step", "chain"), [(1, 10**6), (37, 10**6), (4000, 10**6), (10**6, 5)]
)
def test_selections_cost_at_most_their_share_and_the_last_theta_is_judged(
    share, per_step, chain
):
    """By count, after every outer step of a run of 90 with a checkpoint every 5."""
    selector = make_selector(entry(still(), 6), seeds=2, share=share, chain=chain)
    state = make_state(selector)
    spent, at = 0, []
    for step in range(1, 91):
        credit = state.selected.credit + per_step
        state = at_step(state, step, credit)
        is_last = step == 90
        if (step % 5 == 0) and selector.is_due(state, is_last=is_last):
            score = {"raw": {"still": -float(step)}}
            state, line = selector.select(state, lambda _, score=score: score)
            spent += line["inner_steps"]
            at.append(step)
        assert spent <= share * per_step * step * (1 + 1e-6)
        assert 6 * len(at) <= share * chain * step * (1 + 1e-6)
    affordable = int(share * 90 * min(per_step / selector.cost(state), chain / 6) + 1e-6)
    assert (90 in at) == (affordable >= 1)
    assert len(at) >= min(affordable, 18) - 2
    gaps = np.diff(at[:-1])  # even, up to the checkpoints there are
    assert len(gaps) < 2 or max(gaps) - min(gaps) <= 5


def test_the_run_says_what_it_selects_on(tmp_path):
    config = load_suite(TOY / "toy.toml")
    assert build_selector(config, TRAINER, trust=True) is None
    suite = tmp_path / "selection.toml"
    sets = [f"selection.suite={suite}", "tasks.0.scale=2.0"]
    suite.write_text(f'[[tasks]]\nfile = "{TOY / "toy.py"}"\nscale = 2.0\n')
    with pytest.raises(ConfigError, match=r"`selection.tasks.0` must not be a training"):
        build_selector(load_suite(TOY / "toy.toml", sets), TRAINER, trust=True)
    # A default that is spelled out makes no other task.
    suite.write_text('[[tasks]]\nfamily = "mlp"\ndepth = 2\n')
    both = ["tasks=[{family='mlp'}, {family='mlp', depth=1}]"]
    with pytest.raises(ConfigError, match=r"got what `tasks.0` is"):
        build_selector(load_suite("quick", [*sets[:1], *both]), TRAINER)
    suite.write_text('[[tasks]]\nfamily = "mlp"\ndepht = 3\n')
    with pytest.raises(ConfigError, match=r"key of `selection.tasks.0` `depht`"):
        build_selector(load_suite("quick", sets[:1]), TRAINER)


def test_a_task_without_valid_is_refused(tmp_path, monkeypatch):
    sets = [f"selection.suite={TOY / 'selection.toml'}"]
    config = load_suite(TOY / "toy.toml", sets)
    short = entry(replace(still(), splits=("train", "meta")))
    monkeypatch.setattr(
        "lopt.run.selection.build_selection_tasks", lambda config, trust: [short]
    )
    with pytest.raises(ConfigError, match="must have a split `valid`"):
        build_selector(config, TRAINER, trust=True)


def test_optimizers_that_read_the_run_length_get_it():
    """SGD whose rate is theta over the run length: T steps of 1/T."""

    def opt_fn(theta, *, specs=None, num_steps=None):
        del specs
        return optax.with_extra_args_support(optax.sgd(theta["rate"] / num_steps))

    task = still()
    lopt = LearnedOptimizer(lambda key: {"rate": jnp.ones(())}, opt_fn)
    selector = make_selector(entry(task, 8), lopt=lopt)
    state = TrainState(
        {"rate": jnp.ones(())}, (), (), jnp.ones((), jnp.int32), jax.random.key(0)
    )
    state = selector.start(state)
    _, line = selector.select(state, selector.compile(state))
    expected = np.log(final_loss(task, 1 / 8, 8))
    np.testing.assert_allclose(line["scores"]["raw"], expected, rtol=1e-4)
