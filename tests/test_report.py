"""Files that stand alone and say what was found; a failed write leaves what was."""

import base64
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from problems import quadratic
from rich.console import Console

from lopt.errors import LoptError
from lopt.evaluation import pictures, report
from lopt.evaluation.baselines import BASELINES
from lopt.evaluation.contest import Contender, Record
from lopt.evaluation.curves import NUM_POINTS, Reading
from lopt.evaluation.results import Settings, earned, to_dict
from lopt.evaluation.summary import Entry, speed_up_over, summarize
from lopt.evaluation.tuning import Hyperparameters, Point, SearchSpace, Tuned

BUDGETS = (100, 200, 400, 800)
SEEDS = 12
SETTINGS = Settings(
    suite="digits",
    baselines=("muon", "static", "<b>&"),
    trials=8,
    seeds=SEEDS,
    tuning_seeds=2,
    budgets=(0.125, 0.25, 0.5, 1.0),
    seed=0,
    lanes=6,
    device="cpu",
)


def record(num_steps, loss, tuned):
    """Runs whose loss falls like a power of the step, to `loss` at the end."""
    steps = np.arange(1, NUM_POINTS + 1) / NUM_POINTS
    curve = np.outer(loss * steps**-0.5, np.linspace(0.9, 1.1, SEEDS))
    return Record(
        num_steps=num_steps,
        losses=curve[-1],
        accuracies=np.full(SEEDS, 0.97),
        diverged=np.arange(SEEDS) == 0,
        readings=Reading(curve, curve, curve, curve, curve),
        tuned=Tuned(Point(0, 2, False), loss, {}, 0, True) if tuned else None,
        chosen=Hyperparameters(0.01, 0.1, False) if tuned else None,
    )


def entry(speed, tuned=True, milliseconds=2.0):
    """With B steps it reaches (speed B)^-1/2."""
    records = [record(b, (speed * b) ** -0.5, tuned) for b in BUDGETS]
    return Entry(records, milliseconds)


NOT_RUN = BASELINES["sgd"].lopt
CONTENDERS = [
    Contender(name="ours", kind="learned", lopt=NOT_RUN),
    Contender(
        name="muon", kind="baseline", lopt=NOT_RUN, space=SearchSpace(learning_rate=1.0)
    ),
    Contender(name="static", kind="control", lopt=NOT_RUN),
    Contender(name="<b>&", kind="baseline", lopt=NOT_RUN),
]


@pytest.fixture(scope="module")
def results():
    tasks = [replace(quadratic(), name=name) for name in ("first", "second")]
    entries = {}
    for i, ours in enumerate((2.0, 0.5)):
        entries[i, 0] = entry(ours, tuned=False, milliseconds=4.0)
        entries[i, 1] = entry(1.0)
        entries[i, 2] = entry(4.0, tuned=False)
        entries[i, 3] = entry(0.01, tuned=False)
    return summarize(tasks, CONTENDERS, entries, SETTINGS, 12.5)


def test_known_comparison(results):
    first, second = results.tasks
    assert first.speed_up.value == pytest.approx(2.0)
    assert first.speed_up.bound == "exact"
    # All seeds scale alike, so resampling pairs of runs changes nothing.
    assert first.speed_up.interval95 == pytest.approx((2.0, 2.0))
    assert first.best_baseline == "muon"
    assert first.speed_up_over["static"].value == pytest.approx(0.5)
    assert first.speed_up_over["<b>&"].value == 8.0
    assert first.speed_up_over["<b>&"].bound == "at least"
    assert second.speed_up.value == pytest.approx(0.5)
    assert results.speed_up.value == pytest.approx(1.25)  # the median of 2 and 1/2
    # A step of ours takes 4 ms, one of muon 2 ms.
    assert first.speed_up_seconds == pytest.approx(1.0)
    assert first.winner == (
        "ours wins: it reaches the result of muon in 2.0 times fewer steps, "
        "1.0 times faster"
    )
    assert second.winner == (
        "muon wins: it reaches the result of ours in 2.0 times fewer steps, "
        "4.0 times faster"
    )


@pytest.mark.parametrize(
    ("speed", "milliseconds", "end"),
    [
        (100.0, 4.0, "at least 8.0 times fewer steps, at least 4.0 times faster"),
        (4.0, 16.0, "4.0 times fewer steps, but 2.0 times slower"),
    ],
)
def test_a_winner_is_told_with_what_its_steps_cost(speed, milliseconds, end):
    entries = {(0, 0): entry(speed, tuned=False, milliseconds=milliseconds)}
    entries[0, 1] = entry(1.0)  # a step of muon takes 2 ms
    found = summarize([quadratic()], CONTENDERS[:2], entries, SETTINGS, 1.0)
    assert found.tasks[0].winner.endswith(f"muon in {end}")


def test_numbers_of_a_contender(results):
    ours, muon, static, _ = results.tasks[0].contenders
    assert [budget.num_steps for budget in ours.budgets] == list(BUDGETS)
    best = (4.0 * 800) ** -0.5
    assert static.budgets[-1].loss == pytest.approx(best)
    assert ours.budgets[-1].num_diverged == 1
    assert ours.budgets[-1].accuracy == pytest.approx(0.97)
    assert muon.budgets[0].tuning.at_edge
    # Lowest of all is `static`: its curve is best √(800/t), at most 1.25 best from 512.
    assert static.steps_to_125 == 512
    assert static.steps_to_110 == 664
    # muon ends at twice the best loss.
    assert muon.steps_to_125 is None


def test_results_json_is_plain_and_complete(results, tmp_path):
    report.write(results, tmp_path / "new" / "folder")
    text = (tmp_path / "new" / "folder" / "results.json").read_text()
    content = json.loads(text, parse_constant=pytest.fail)
    assert content == to_dict(results)
    assert (content["format"], content["format_version"]) == ("lopt-evaluation", 1)
    assert content["speed_up"]["value"] == pytest.approx(1.25)
    assert set(content["speed_up_over"]) == {"muon", "static", "<b>&"}
    for task in content["tasks"]:
        assert {"value", "bound", "interval80", "interval95"} == set(task["speed_up"])
        assert len(task["contenders"][0]["budgets"][0]["losses"]) == SEEDS
        assert len(task["contenders"][0]["curve"]["steps"]) == NUM_POINTS
    nan = replace(results, seconds=math.nan)
    assert to_dict(nan)["seconds"] is None


class Page(HTMLParser):
    """Collects what a page shows and what it would load."""

    def __init__(self):
        super().__init__()
        self.images, self.loaded, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "img":
            self.images.append(attrs["src"])
        self.loaded += [attrs[key] for key in ("href", "src") if key in attrs]
        self.loaded += [tag] * (tag in ("script", "link", "iframe"))

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_stands_alone_and_explains_itself(results):
    page = Page()
    page.feed(report.html_report(results))
    assert len(page.images) == 1 + len(results.tasks)
    assert page.loaded == page.images
    for image in page.images:
        kind, data = image.split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
    text = "".join(page.text)
    assert "<b>&" in text  # a name with markup is shown, not obeyed
    assert "2.0 times fewer steps" in text
    assert "0.01, 0.1, cosine *" in text
    for column in ("speed-up", "to 1.25×", "ms/step", "diverged", "tuned"):
        assert column in text
    assert "while 6 runs share the device" in text
    assert not re.search(r"\{\w*\}", text)


def test_controls_are_apart_and_say_what_was_earned(results):
    page = report.html_report(results)
    overview, controls = page.split("What learning and adapting added", 1)
    assert "over muon" in overview and "over static" not in overview
    assert "over static" in controls and "over muon" not in controls
    (line,) = earned(results)
    # Against `static` ours is 0.5 on the first task and 1/8 on the second.
    assert line.startswith("learning is worth 0.31× over `static`, the rule that")
    assert line.endswith("(80 %: 0.31–0.31)")
    assert line in controls
    over = {"muon": results.speed_up, "<b>&": results.speed_up}
    tasks = tuple(
        replace(
            task,
            speed_up_over=over,
            contenders=tuple(c for c in task.contenders if c.kind != "control"),
        )
        for task in results.tasks
    )
    none = replace(results, speed_up_over=over, tasks=tasks)
    assert earned(none) == []
    assert "adapting" not in report.html_report(none)


def test_any_contender_can_be_compared_with_any_others(results):
    first = results.tasks[0]
    static = speed_up_over(first, "static", ["muon", "<b>&"], seed=0)
    assert static.value == pytest.approx(4.0)
    assert static.interval95 == pytest.approx((4.0, 4.0))
    assert speed_up_over(first, "ours", ["muon", "<b>&"], 0) == first.speed_up


def test_few_seeds_are_said(results):
    assert "not to be trusted" not in report.html_report(results)
    few = replace(results, settings=replace(SETTINGS, seeds=9))
    assert "not to be trusted" in report.html_report(few)


def test_table_and_winners(results):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))
    console.print(report.summary_table(results))
    text = console.export_text()
    for word in ("first", "second", "median", "≥ 8.0", "0.025", "0.0354"):
        assert word in text
    over, header = text.splitlines()[2:4]
    assert over.split() == [*["over"] * 3, "best's"]
    assert " ".join(header.split()) == "task speed-up 80 % muon static <b>& loss loss"
    assert report.winners(results)[1].startswith("second: muon wins")


@pytest.mark.parametrize("num_baselines", [5, 6])
def test_a_table_fits_into_a_terminal(results, num_baselines):
    names = ("sgd", "adam", "adamw", "lion", "muon", "static")[:num_baselines]
    task = replace(
        results.tasks[0],
        name="2x32-inferred",
        speed_up_over=dict.fromkeys(names, results.speed_up_over["<b>&"]),
    )
    many = replace(results, tasks=(task,), speed_up_over=task.speed_up_over)
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(report.summary_table(many))
    (row,) = (x for x in console.export_text().splitlines() if "2x32-inferred" in x)
    assert row.count("≥ 8.0") == num_baselines
    assert ("0.0354" in row) == (num_baselines == 5)


def test_pictures_show_every_contender(results):
    figure = pictures.task_figure(results.tasks[0])
    curves, budgets = figure.axes
    assert len(curves.lines) == 4
    labels = [line.get_label() for line in budgets.lines]
    assert labels[:4] == ["<b>&", "static", "muon", "ours"]
    np.testing.assert_allclose(budgets.lines[3].get_xdata(), BUDGETS)
    np.testing.assert_allclose(
        budgets.lines[3].get_ydata(), [(2.0 * b) ** -0.5 for b in BUDGETS]
    )
    assert pictures.svg(figure).startswith("<?xml")
    overview = pictures.overview_figure(results).axes[0]
    shown = [tick.get_text() for tick in overview.get_yticklabels()]
    assert shown == ["first", "second", "median"]


def test_a_folder_that_cannot_be_written_is_one_clear_error(results, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(LoptError, match=r"cannot write `.*results\.json`: "):
        report.write(results, blocked / "folder")
    assert blocked.read_text() == "in the way"


def test_a_failed_write_leaves_the_old_file_and_no_other(results, tmp_path, monkeypatch):
    report.write(results, tmp_path)
    before = (tmp_path / "results.json").read_bytes()

    def full(self, text, **options):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(LoptError, match="no space left on device"):
        report.write(results, tmp_path)
    assert (tmp_path / "results.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "results.json"]
