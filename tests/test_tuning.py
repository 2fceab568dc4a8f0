"""The search finds known optima, extends its grid, and never sees more than scores."""

import math

import pytest

from lopt.evaluation.tuning import (
    MAX_EXTENSIONS,
    NUM_FINALISTS,
    Point,
    SearchSpace,
    search,
)

SPACE = SearchSpace(learning_rate=1e-2)


def bowl(best: Point):
    """A score with one minimum, and a record of what was asked."""
    asked = []

    def score(points):
        asked.extend(points)
        return [
            (p.rate - best.rate) ** 2
            + 2 * (p.decay - best.decay) ** 2
            + (p.constant != best.constant)
            for p in points
        ]

    return score, asked


def run(space, trials, best, **options):
    """A search for the minimum of a bowl, and the points it asked for, in order."""
    score, asked = bowl(best)
    final_score, finals = bowl(best)
    tuned = search(space, trials, score, final_score, **options)
    assert set(finals) <= set(asked)
    assert len(finals) == min(NUM_FINALISTS, len(asked))
    return tuned, asked


def test_values_of_a_point():
    assert SPACE.values(Point(-2, 3, True)) == (0.0025, 0.3, True)


@pytest.mark.parametrize("trials", [1, 2, 3, 8, 16, 40])
def test_spends_its_trials_on_distinct_points(trials):
    tuned, asked = run(SPACE, trials, SPACE.center)
    assert tuned.point == SPACE.center
    assert len(set(asked)) == len(asked) == len(tuned.scores)
    extra = len(asked) - trials
    # Every extension adds at most the two rates and the decay beyond, on both sides.
    assert 0 <= extra <= 6 * tuned.num_extensions


@pytest.mark.parametrize("rate", [-3, 0, 1, 3])
@pytest.mark.parametrize("decay", [0, 2, 4])
def test_finds_the_optimum_of_a_bowl(rate, decay):
    tuned, _ = run(SPACE, 24, Point(rate, decay, False))
    assert tuned.point == Point(rate, decay, False)
    assert not tuned.at_edge


def test_an_optimum_at_the_edge_extends_the_grid():
    tuned, _ = run(SPACE, 8, Point(6, 6, False))
    assert tuned.num_extensions > 0
    assert tuned.point.rate >= 4
    assert tuned.point.decay >= SPACE.num_decays - 1


def test_extensions_are_bounded_and_said():
    tuned, _ = run(SPACE, 8, Point(100, 2, False))
    assert tuned.num_extensions == MAX_EXTENSIONS
    assert tuned.at_edge


def test_another_center_moves_the_spread():
    center = Point(6, 1, True)
    tuned, asked = run(SPACE, 8, center, center=center)
    assert asked[0] == center == tuned.point


def test_baseline_without_decay_or_schedules():
    space = SearchSpace(
        learning_rate=1.0,
        decays=(0.0,),
        num_decays=1,
        center_decay=0,
        schedules=(False,),
    )
    tuned, asked = run(space, 30, Point(2, 0, False))
    assert tuned.point == Point(2, 0, False)
    assert {(p.decay, p.constant) for p in asked} == {(0, False)}


def test_everything_diverges():
    def score(points):
        return [math.inf] * len(points)

    tuned = search(SPACE, 6, score, score)
    assert tuned.point == SPACE.center


def test_a_lucky_score_does_not_survive_the_final():
    truth = {SPACE.center: 1.0}
    luck = {**truth, Point(-2, 2, False): 0.5}

    def scorer(table):
        return lambda points: [table.get(point, 2.0) for point in points]

    assert search(SPACE, 6, scorer(luck), scorer(luck)).point == Point(-2, 2, False)
    tuned = search(SPACE, 6, scorer(luck), scorer(truth))
    assert tuned.point == SPACE.center
    assert tuned.score == 1.0
