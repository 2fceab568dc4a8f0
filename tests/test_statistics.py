"""Speed-ups and intervals against cases worked out by hand."""

import numpy as np
import pytest

from lopt.evaluation import statistics

BUDGETS = np.array([100.0, 200.0, 400.0, 800.0])


def power_law(constant, exponent=0.5):
    return constant * BUDGETS**-exponent


def test_interpolation_is_exact_on_a_power_law():
    # Its value at 300 is found at 300, between two budgets that were run.
    found = statistics.budget_to_reach(BUDGETS, power_law(2.0), 2.0 * 300**-0.5)
    np.testing.assert_allclose(found, 300.0, rtol=1e-12)


def test_interpolation_by_hand():
    # From .4 at 200 to .1 at 400; .2 is half way in logs: 200 sqrt(2).
    losses = np.array([0.8, 0.4, 0.1, 0.05])
    found = statistics.budget_to_reach(BUDGETS, losses, 0.2)
    np.testing.assert_allclose(found, 200 * 2**0.5)


@pytest.mark.parametrize(
    ("target", "expected"),
    [(0.9, 0.0), (0.8, 100.0), (0.05, 800.0), (0.04, np.inf), (0.4, 200.0)],
)
def test_ends_of_the_range(target, expected):
    losses = np.array([0.8, 0.4, 0.1, 0.05])
    found = statistics.budget_to_reach(BUDGETS, losses, target)
    np.testing.assert_allclose(found, expected)


def test_losses_that_are_not_positive_are_interpolated_as_they_are():
    losses = np.array([1.0, 0.0, -1.0, -2.0])
    found = statistics.budget_to_reach(BUDGETS, losses, -0.5)
    np.testing.assert_allclose(found, 200 * 2**0.5)


def test_a_larger_budget_never_counts_against_an_optimizer():
    rising = np.array([0.8, 0.2, 0.4, 0.3])
    np.testing.assert_array_equal(
        statistics.reachable(rising), np.array([0.8, 0.2, 0.2, 0.2])
    )
    # It had reached .2 with 200 steps; a budget of 400 can do the same.
    assert statistics.budget_to_reach(BUDGETS, rising, 0.2) == pytest.approx(200)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.8, 1.0, 1.6, 2.0, 5.0])
def test_known_speed_up_is_found_on_both_sides_of_one(ratio):
    # Ours at budget B is as good as the baseline at ratio B.
    baseline = 3.0 * BUDGETS**-0.4
    ours = 3.0 * (ratio * BUDGETS) ** -0.4
    found = statistics.speed_ups(BUDGETS, ours, baseline[None])
    np.testing.assert_allclose(found.value, ratio, rtol=1e-10)
    assert found.censored == 0


@pytest.mark.parametrize(("ratio", "value", "sign"), [(20, 8, 1), (0.05, 1 / 8, -1)])
def test_out_of_range_is_censored(ratio, value, sign):
    ours, baseline = (ratio * BUDGETS) ** -0.4, BUDGETS**-0.4
    found = statistics.speed_ups(BUDGETS, ours, baseline[None])
    assert found.value == value
    assert found.censored == sign


def test_the_best_baseline_sets_the_target_and_the_envelope_the_match():
    early = np.array([0.50, 0.40, 0.35, 0.34])  # quick, then stuck
    late = np.array([0.90, 0.60, 0.30, 0.10])
    np.testing.assert_array_equal(
        statistics.envelope(np.stack([early, late])), np.array([0.5, 0.4, 0.3, 0.1])
    )
    ours = np.array([0.9, 0.8, 0.6, 0.4])
    found = statistics.speed_ups(BUDGETS, ours, np.stack([early, late]))
    np.testing.assert_allclose(found.value, 200 / 800)  # early reaches .4 at 200
    found = statistics.speed_ups(BUDGETS, ours, late[None])
    # late: .6 at 200, .3 at 400; .4 lies log(.6/.4)/log 2 of an octave after 200.
    np.testing.assert_allclose(found.value, 2 ** (np.log2(1.5)) * 200 / 800)


def test_batched_equals_one_by_one():
    rng = np.random.default_rng(0)
    ours = np.exp(-np.sort(rng.random((5, 4)), axis=-1))
    baselines = np.exp(-np.sort(rng.random((3, 5, 4)), axis=-1))
    batched = statistics.speed_ups(BUDGETS, ours, baselines)
    for i in range(5):
        single = statistics.speed_ups(BUDGETS, ours[i], baselines[:, i])
        assert batched.value[i] == pytest.approx(float(single.value))
        assert batched.censored[i] == single.censored


def test_bootstrap_is_paired():
    # Seeds differ by a factor of e^2, but ours is always twice as good as the baseline
    # on the same seed: paired resampling sees no uncertainty at all.
    rng = np.random.default_rng(1)
    hardness = np.exp(rng.normal(size=12))
    baseline = np.outer(BUDGETS**-0.5, hardness)
    ours = np.outer((2 * BUDGETS) ** -0.5, hardness)
    draws = statistics.resample(12, 500, seed=3)
    samples = statistics.bootstrap_speed_ups(BUDGETS, ours, baseline[None], draws)
    np.testing.assert_allclose(samples, 2.0, rtol=1e-9)


def test_bootstrap_interval_of_a_mean_has_its_nominal_width():
    # ours = baseline on average, independent noise: log2 speed-up at exponent 1/2 has
    # the standard deviation 2 sd(log mean ratio) / log 2 = 2 sqrt(2) .1 / 4 / log 2.
    rng = np.random.default_rng(2)
    noise = 1 + 0.1 * rng.normal(size=(2, 16))
    ours = np.outer(BUDGETS**-0.5, noise[0] / noise[0].mean())
    baseline = np.outer(BUDGETS**-0.5, noise[1] / noise[1].mean())
    draws = statistics.resample(16, 4000, seed=4)
    samples = statistics.bootstrap_speed_ups(BUDGETS, ours, baseline[None], draws)
    low, high = statistics.interval(samples, 0.95)
    ratios = (ours[0] / ours[0].mean() - baseline[0] / baseline[0].mean()).std() / 4
    expected = 2 * 1.96 * 2 * ratios
    assert np.log(high / low) == pytest.approx(expected, rel=0.1)
    assert low < 1 < high


def test_intervals_nest():
    samples = np.random.default_rng(5).normal(size=1000)
    inner, outer = (statistics.interval(samples, level) for level in (0.8, 0.95))
    assert outer[0] < inner[0] < inner[1] < outer[1]
    np.testing.assert_allclose(statistics.interval(np.arange(101.0), 0.8), (10, 90))


def test_first_below():
    steps = np.array([10, 20, 30])
    assert statistics.first_below(steps, np.array([3.0, 2.0, 1.0]), 2.0) == 20
    assert statistics.first_below(steps, np.array([3.0, 2.0, 1.0]), 0.5) is None
