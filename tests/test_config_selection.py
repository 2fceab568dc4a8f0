"""The selection suite in a configuration: its tasks, mistakes, and trust."""

import json

import pytest
from configs import SUITE_TASK, error_of, write_suite

from lopt.config import check_trust, from_dict, load_suite, python_files, to_dict
from lopt.errors import ConfigError


@pytest.fixture
def suite(tmp_path):
    return write_suite(tmp_path)


SELECTION = '[[tasks]]\nfamily = "mlp"\nname = "other"\nwidth = 9\n'


@pytest.fixture
def selection(tmp_path):
    path = tmp_path / "selection.toml"
    path.write_text(SELECTION)
    return path


def test_the_tasks_of_the_selection_suite_are_in_the_configuration(suite, selection):
    suite.write_text('[selection]\nsuite = "selection.toml"\nseeds = 3\n' + SUITE_TASK)
    config = load_suite(suite)
    assert config.selection.suite == str(selection)  # beside the suite that names it
    assert (config.selection.seeds, config.selection.share) == (3, 0.05)
    assert [task.name for task in config.selection.tasks] == ["other"]
    assert config.selection.tasks[0].options == {"width": 9}
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    by_name = load_suite(suite, ["selection.suite=digits-selection"])
    assert by_name.selection.tasks == load_suite("digits-selection").tasks
    assert load_suite(suite, ["selection.suite=''"]).selection.tasks == ()


def test_digits_can_be_selected_on_what_is_neither_trained_nor_held_out_on():
    config = load_suite("digits", ["selection.suite=digits-selection"])
    apart = [
        {(t.family, str(sorted(t.options.items()))) for t in tasks}
        for tasks in (
            config.tasks,
            config.selection.tasks,
            load_suite("digits-heldout").tasks,
        )
    ]
    assert all(apart) and len(set.union(*apart)) == sum(map(len, apart))


def test_runs_of_before_there_was_selection_can_be_read(suite):
    config = load_suite(suite)
    plain = to_dict(config)
    del plain["selection"]
    for key in ("average", "normalize_tasks", "schedule_options"):
        del plain["outer_optimizer"][key]
    assert from_dict(plain) == config


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        (
            "outer_optimizer.average=1",
            "`outer_optimizer.average` must be at least 0",
            None,
        ),
        ("outer_optimizer.average=-0.1", "`outer_optimizer.average` must be at", None),
        (
            "outer_optimizer.schedule=cosin",
            "`outer_optimizer.schedule` must be `cosine` or",
            "did you mean `cosine`?",
        ),
        (
            "selection.suit=x",
            "unknown key of `selection` `suit`",
            "did you mean `suite`?",
        ),
        ("selection.seeds=0", "`selection.seeds` must be at least 1, got 0", None),
        ("selection.share=0.0", "`selection.share` must be positive and at most 1", None),
        ("selection.share=1.5", "`selection.share` must be positive and at most 1", None),
        ("selection=3", "`selection` must be a table, got 3", None),
        ("selection.suite=3", "`selection.suite` must be a string, got 3", None),
        (
            "selection.suite=digits-selectoin",
            "`selection.suite`: unknown suite `digits-selectoin`",
            "did you mean `digits-selection`?",
        ),
        ("selection.suite=no.toml", "`selection.suite`: cannot read suite", "released"),
        (
            "selection.suite=digits-heldout",
            "`selection.suite` must not be a suite that is held out, got",
            "select on a suite of its own",
        ),
        ("selection.tasks=[]", "unknown key of `selection` `tasks`", "`selection.suite`"),
        ("selection.suite=SELF", "`selection.suite` must be another suite than", None),
        ("tasks.0.name=other", "`selection.tasks.0.name` must not be the name of", None),
    ],
)
def test_mistakes_about_the_outer_loop_are_told(
    suite, selection, override, message, hint
):
    suite.write_text(SUITE_TASK)
    override = override.replace("SELF", str(suite))
    error = error_of(suite, f"selection.suite={selection}", override)
    if "tasks=" in override or "SELF" in override:
        error = error_of(suite, override)
    assert error.message.startswith(message)
    assert (hint or "") in (error.hint or "")


def test_python_files_of_a_selection_suite_need_trust(suite, selection, tmp_path):
    suite.write_text(SUITE_TASK)
    task = tmp_path / "task.py"
    task.write_text("")
    selection.write_text('[[tasks]]\nfile = "task.py"\n')
    by_hand = load_suite(suite, [f"selection.suite={task}"])
    assert check_trust(suite, by_hand) == {task}
    for config in (
        load_suite(suite, [f"selection.suite={selection}"]),
        load_suite(task, ["tasks.0.name=a", f"selection.suite={selection}"]),
    ):
        assert str(task) in python_files(config)
        with pytest.raises(ConfigError, match="would run the Python file"):
            check_trust(config.suite, config)
        assert check_trust(config.suite, config, trust=True)
    suite.write_text('[selection]\nsuite = "task.py"\n' + SUITE_TASK)
    with pytest.raises(ConfigError, match="would run the Python file"):
        check_trust(suite, load_suite(suite))
