"""What a suite costs: sizes counted by hand, seconds by a clock of our own."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exported import made
from toy_runs import TOY, toy_run
from trainers import entry, small_mlp

from lopt import costs
from lopt.checkpoint import save_file
from lopt.cli import run as cli_run
from lopt.cli import tables
from lopt.config import load_suite
from lopt.errors import CheckpointError
from lopt.families import FAMILIES
from lopt.families.recurrent import recurrent
from lopt.mixtures import Mixture
from lopt.suites import build_tasks

A, B = jnp.ones((8, 32)), jnp.ones((32, 32))
PRODUCT = 2 * 8 * 32 * 32


def test_matrix_products_and_sums_are_counted():
    assert costs.flops(lambda a, b: a @ b, A, B) == PRODUCT
    assert costs.flops(lambda a, b: a @ b + 1, A, B) == PRODUCT + A.size
    shapes = jax.eval_shape(lambda: (A, B))
    assert costs.flops(lambda a, b: a @ b, *shapes) == PRODUCT


def test_loops_count_as_often_as_they_run():
    def scanned(length, function):
        def loop(a, b):
            return jax.lax.scan(lambda a, _: (function(a, b), None), a, None, length)[0]

        return loop

    def product(a, b):
        return a @ b

    once = costs.flops(scanned(1, product), A, B)
    assert PRODUCT <= once < 1.01 * PRODUCT
    for function in (
        scanned(10, product),
        jax.jit(scanned(10, product)),
        jax.checkpoint(scanned(10, product)),
        scanned(5, scanned(2, product)),
    ):
        assert 10 * PRODUCT <= costs.flops(function, A, B) < 10.1 * PRODUCT
    gradient = jax.value_and_grad(lambda a, b: jnp.sum(scanned(10, product)(a, b)))
    assert 20 * PRODUCT <= costs.flops(gradient, A, B) < 20.5 * PRODUCT  # b is given


def test_sizes_are_those_of_the_tasks():
    tasks = [
        entry(replace(small_mlp(**options), name=name))
        for name, options in (
            ("a", {"data_seed": 1}),
            ("b", {"width": 32, "batch_size": 64}),
            ("c", {"data_seed": 2}),
        )
    ]
    a, b, c = costs.task_sizes(tasks)
    assert [size.name for size in (a, b, c)] == ["a", "b", "c"]
    assert [size.program for size in (a, b, c)] == [1, 2, 1]
    assert a.flops == c.flops and a.tensors == b.tensors == 4
    assert a.parameters == 64 * 4 + 4 + 4 * 10 + 10
    data = tasks[0].task.data
    assert a.data_bytes == sum(x.size * 4 for x in jax.tree.leaves(data))
    # Forward and back; but nobody asks for the derivative in the inputs.
    products = 2 * 64 * (2 * 64 * 32 + 3 * 32 * 10)
    assert products < b.flops < 1.1 * products


def test_every_step_of_a_sequence_counts():
    def task(length):
        made = recurrent(width=8, batch_size=2, sequence_length=length)
        return entry(replace(made, name=f"{length} bytes"))

    short, long = (size.flops for size in costs.task_sizes([task(8), task(16)]))
    assert 1.9 < long / short < 2.1


FILE = TOY.with_name("toy.py")
MIXED = (
    f'tasks=[{{file="{FILE}", name="a", min_steps=2, max_steps=6}}, '
    f'{{file="{FILE}", name="b", min_steps=2, max_steps=4, weight=2}}, '
    f'{{file="{FILE}", name="c", min_steps=2, max_steps=4, weight=2}}, '
    f'{{file="{FILE}", name="d", min_steps=2, max_steps=8, enters=0.5}}]',
    "tasks_per_step=1",
)


def test_the_inner_steps_are_those_of_the_run_and_seconds_add_up(monkeypatch):
    """Theta's update takes 1 second, and the groups 2, 3 and 5 beside it."""
    config, measured = load_suite(TOY, MIXED), costs._timed

    def timed(step, state, factors, total):
        state, _, inner_steps = measured(step, state, factors, total)
        return state, 1.0 + np.dot(factors, (2.0, 3.0, 5.0)), inner_steps

    monkeypatch.setattr(costs, "_timed", timed)
    cost = costs.training_cost(config, trust=True)
    lines = toy_run(None, overrides=MIXED).metrics
    assert cost.inner_steps == sum(line["inner_steps"] for line in lines)
    assert (cost.programs, cost.outer_steps) == (3, 7)
    took_part = [name for line in lines for name in line["task_losses"]]
    assert {"a", "b", "c"} <= {*took_part} and cost.compile_seconds > 0
    by_group = {"a": 2, "b": 3, "d": 5}
    counts = {name: took_part.count(name) for name in by_group}
    assert cost.seconds == 7 + sum(counts[n] * s for n, s in by_group.items())
    expected = {"a": 2 * counts["a"], "d": 5 * counts["d"]}
    expected |= dict.fromkeys("bc", 1.5 * counts["b"])
    assert cost.task_seconds == expected


def test_a_program_is_timed_all_over_the_outer_steps(monkeypatch):
    """Steps of the second half are twice as long, and the very first takes a minute."""
    clock, places = [0.0], []

    def step(state, factors):
        places.append(int(state.step))
        assert factors == (1.0, 0.0)
        late = places[-1] >= 50
        clock[0] += 60.0 if len(places) == 1 else 0.02 * (1 + late)
        return state, SimpleNamespace(num_steps=jnp.asarray(30 if late else 10))

    monkeypatch.setattr(costs.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(costs.jax, "block_until_ready", lambda x: x)
    state = costs.TrainState({}, (), (), jnp.int32(0), jax.random.key(0))
    _, seconds, inner_steps = costs._timed(step, state, (1.0, 0.0), 100)
    assert places[2:] == [7, 21, 35, 50, 64, 78, 92]
    assert seconds == pytest.approx((3 * 0.02 + 4 * 0.04) / 7)
    assert inner_steps == pytest.approx((3 * 10 + 4 * 30) / 7)


def test_groups_are_counted_by_what_takes_part():
    drawing = Mixture(
        weights=(0.5, 0.5), enters=(0.0, 0.4), number=0, outer_steps=10, seed=0
    )
    assert costs._steps_of_groups(drawing.factors, 2, 10) == [10, 6]
    assert costs._steps_of_groups(lambda done: None, 3, 7) == [7, 7, 7]


def test_numbers_are_in_units_of_people(capsys):
    shown = [tables._scaled(n, "B") for n in (7, 999.7, 12_345, 6.5e9)]
    assert shown == ["7 B", "1 kB", "12.3 kB", "6.5 GB"]
    shown = [tables._duration(s) for s in (0.0521, 90, 150, 9000)]
    assert shown == ["0.052 s", "90 s", "2.5 min", "2.5 h"]
    tables.cost(
        {
            "programs": 2, "compile_seconds": 3.0, "outer_steps": 10,
            "inner_steps": 5000, "seconds": 20.0, "task_seconds": {"a": 4.0, "b": 16.0},
        }
    )  # fmt: skip
    told, *_, rows = capsys.readouterr().out.partition("share")
    assert "about 20 s for 10 outer steps, 5,000 inner steps at 250 a second" in told
    assert [line.split() for line in rows.splitlines() if "%" in line] == [
        ["b", "16", "s", "80%"], ["a", "4", "s", "20%"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "suite", ["general", pytest.param("general-heldout", marks=pytest.mark.slow)]
)
def test_general_suites_are_shown_without_compiling(suite, monkeypatch, capsys):
    def refuse(self, *args, **kwargs):
        raise AssertionError("compiles")

    config = load_suite(suite)
    tasks = build_tasks(config)
    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    sizes = costs.task_sizes(tasks)
    tables.sizes([vars(size) for size in sizes])
    assert all(task.name in capsys.readouterr().out for task in config.tasks[:1])
    assert {task.family for task in config.tasks} == {*FAMILIES}
    assert all(size.flops > 0 for size in sizes)
    programs = {size.program for size in sizes}
    if suite == "general":
        assert 0 < config.tasks_per_step < len(programs) < len(tasks)
        assert any(task.enters for task in config.tasks)
        assert max(size.parameters for size in sizes) > 100_000


NUMBER = 64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10
"""Parameters of the network that optimizers' costs are told of."""


def test_what_an_update_costs_is_counted_for_each_parameter():
    sgdm = costs.update_cost(made("learnable_sgdm"))
    assert sgdm.parameters == NUMBER
    assert sgdm.state_bytes == pytest.approx(4 + 4 / NUMBER)  # a trace, and the step
    assert sgdm.flops == pytest.approx(4, rel=1e-3)  # β z + g, -lr z, and the sign
    mlp = costs.update_cost(made("mlp", hidden_sizes=(8,), decays=(0.5, 0.9)))
    assert mlp.state_bytes == pytest.approx(2 * 4 + 4 / NUMBER)
    products = 2 * (4 * 8 + 8 * 2)  # inputs that all elements share cost nothing
    assert products < mlp.flops < products + 60


def test_an_optimizer_of_another_network_is_not_counted():
    options = {"bases": ("adam",), "prior_logits": {}}
    own = made("layerwise", **options, embedding_size=1, num_tensors=2)
    with pytest.raises(CheckpointError, match="for a network of 2 tensors"):
        costs.update_cost(own)


def test_show_tells_what_an_update_costs(tmp_path, capsys):
    file = tmp_path / "x.safetensors"
    save_file(made("learnable_adam"), file)
    assert cli_run(["show", str(file), "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert cost["state_bytes"] == pytest.approx(8 + 4 / NUMBER)
    assert cli_run(["show", str(file)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "optimizer's state 8 B" in lines
    assert f"an update {cost['flops']:.3g} FLOP" in lines
    (told,) = (line for line in lines if line.startswith("both of an MLP"))
    assert f"2 layers of 256 on the digits, {NUMBER:,} parameters" in told
