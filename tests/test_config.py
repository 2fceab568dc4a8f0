"""Configurations: defaults, precedence, round trips, and every way to get one wrong."""

import json

import pytest

from lopt.config import (
    BrokenRule,
    ComponentConfig,
    OuterOptimizerConfig,
    RunConfig,
    TaskConfig,
    UnrollConfig,
    check_trust,
    from_dict,
    load_suite,
    python_files,
    released,
    released_names,
    to_dict,
)
from lopt.errors import CheckpointError, ConfigError

SUITE = """
description = "two small networks"
outer_steps = 40
[optimizer]
name = "layerwise"
hidden_sizes = [8, 8]
[estimator]
name = "pes"
num_pairs = 4
sigma = 1
[unroll]
length = 20
[outer_optimizer]
learning_rate = 1e-2
[[tasks]]
family = "mlp"
width = 32
[[tasks]]
family = "mlp"
name = "wide"
weight = 2
options_of = {nested = [1, "two", true]}
"""


SUITE_TASK = '[[tasks]]\nfamily = "mlp"\n'


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "suite.toml"
    path.write_text(SUITE)
    return path


def error_of(suite, *overrides) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_suite(suite, overrides)
    assert "\n" not in caught.value.message
    return caught.value


def test_a_suite_overrides_defaults_and_keeps_the_others(suite):
    config = load_suite(suite)
    assert config.suite == str(suite)
    assert config.outer_steps == 40
    assert config.seed == RunConfig.seed
    assert config.unroll == UnrollConfig(length=20)
    assert config.outer_optimizer == OuterOptimizerConfig(learning_rate=1e-2)
    assert config.estimator == ComponentConfig(
        name="pes", options={"num_pairs": 4, "sigma": 1}
    )
    assert config.tasks[0] == TaskConfig(family="mlp", options={"width": 32})
    assert (config.tasks[1].name, config.tasks[1].weight) == ("wide", 2.0)


def test_overrides_win_and_the_last_of_them(suite):
    config = load_suite(
        suite,
        [
            "outer_steps=5",
            "outer_steps=6",
            "outer_optimizer.schedule=constant",
            "outer_optimizer.learning_rate = 1",
            "tasks.0.width=64",
            "tasks.0.activation=relu",
            "tasks.1.options_of.nested=[]",
            "optimizer.bases=['sgd', 'adam']",
            "description=a = b",
        ],
    )
    assert config.outer_steps == 6
    assert config.outer_optimizer.schedule == "constant"
    assert config.outer_optimizer.learning_rate == 1.0
    assert config.tasks[0].options == {"width": 64, "activation": "relu"}
    assert config.tasks[1].options == {"options_of": {"nested": []}}
    assert config.optimizer.options["bases"] == ["sgd", "adam"]
    assert config.description == "a = b"


def test_another_optimizer_drops_the_options_of_the_first(suite):
    same = load_suite(suite, ["optimizer.name=layerwise"])
    assert same.optimizer.options == {"hidden_sizes": [8, 8]}
    other = load_suite(suite, ["optimizer.name=mlp", "optimizer.size=3"])
    assert other.optimizer == ComponentConfig(name="mlp", options={"size": 3})
    assert load_suite(suite, ["estimator.name=pes"]).estimator == same.estimator
    other = load_suite(suite, ["estimator.name=tbptt", "estimator.num_runs=3"])
    assert other.estimator == ComponentConfig(name="tbptt", options={"num_runs": 3})


def test_the_plain_form_round_trips_through_json(suite):
    config = load_suite(suite, ["tasks.0.rate=0.1", "seed=4294967295"])
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    plain = to_dict(config)
    plain["tasks"][1]["options_of"]["nested"].append(3)
    plain["optimizer"]["hidden_sizes"].append(3)
    assert from_dict(to_dict(config)) == config


def test_numbers_become_what_their_field_is():
    task = TaskConfig(family="mlp", weight=3)
    assert isinstance(task.weight, float)
    assert isinstance(task.min_steps, int)


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("outer_step=3", "unknown key `outer_step`", "did you mean `outer_steps`?"),
        ("unrol.length=3", "unknown key `unrol`", "did you mean `unroll`?"),
        (
            "unroll.lenght=3",
            "unknown key of `unroll` `lenght`",
            "did you mean `length`?",
        ),
        ("unroll.length=20.0", "`unroll.length` must be an integer, got 20.0", None),
        ("unroll.length='20'", "`unroll.length` must be an integer, got '20'", None),
        ("unroll.length=true", "`unroll.length` must be an integer, got true", None),
        ("unroll.length=-5", "`unroll.length` must be at least 1, got -5", None),
        (
            "unroll.length=22",
            "`unroll.length` must be a multiple of `unroll.meta_every` = 5, got 22",
            None,
        ),
        ("unroll.meta_every=0", "`unroll.meta_every` must be at least 1, got 0", None),
        (
            "unroll.meta_split=trian",
            "`unroll.meta_split` must be `meta` or `train`, got 'trian'",
            "did you mean `train`?",
        ),
        (
            "unroll.meta_transform=exp",
            "`unroll.meta_transform` must be `log` or `raw` or `clipped`, got 'exp'",
            None,
        ),
        ("unroll=3", "`unroll` must be a table, got 3", None),
        (
            "optimizer=layerwise",
            "`optimizer` must be a table, got 'layerwise'",
            "write `optimizer.name`",
        ),
        ("optimizer.name=''", "`optimizer.name` must not be empty, got ''", None),
        (
            "outer_optimizer.learning_rate=0",
            "`outer_optimizer.learning_rate` must be positive, got 0",
            None,
        ),
        (
            "outer_optimizer.learning_rate=nan",
            "`outer_optimizer.learning_rate` must be finite, got nan",
            None,
        ),
        (
            "outer_optimizer.clip_norm=-0.5",
            "`outer_optimizer.clip_norm` must not be negative, got -0.5",
            None,
        ),
        (
            "outer_optimizer.warmup_steps=40",
            "`outer_optimizer.warmup_steps` must be less than `outer_steps` = 40, got 40",
            None,
        ),
        ("outer_steps=0", "`outer_steps` must be at least 1, got 0", None),
        ("checkpoint_every=0", "`checkpoint_every` must be at least 1, got 0", None),
        ("keep_checkpoints=0", "`keep_checkpoints` must be at least 1, got 0", None),
        ("seed=-1", "`seed` must not be negative, got -1", None),
        ("seed=4294967296", "`seed` must be at most 4294967295, got 4294967296", None),
        ("tasks.0.weight=0", "`tasks.0.weight` must be positive, got 0", None),
        (
            "tasks.0.weight=heavy",
            "`tasks.0.weight` must be a number, got 'heavy'",
            None,
        ),
        (
            "tasks.0.max_steps=99",
            "`tasks.0.max_steps` must be at least `min_steps` = 100, got 99",
            None,
        ),
        (
            "tasks.1.min_steps=19",
            "`tasks.1.min_steps` must be at least `unroll.length` = 20, got 19",
            None,
        ),
        ("tasks.1.num_steps=0", "`tasks.1.num_steps` must be at least 1, got 0", None),
        (
            "tasks.0.name=wide",
            "`tasks.1.name` must be given to one task only, got 'wide'",
            None,
        ),
        (
            "tasks.0.family=''",
            "`tasks.0`: a task must have a `family` or a `file`, got neither",
            None,
        ),
        ("tasks.0=mlp", "`tasks.0` must be a table, got 'mlp'", None),
        ("tasks=mlp", "`tasks` must be a list of tables `[[tasks]]`, got 'mlp'", None),
        (
            "tasks.2.width=3",
            "`tasks.2` must end in a place of the list, 0 … 1, got '2'",
            None,
        ),
        (
            "tasks.0.file=no.py",
            "`tasks.0.file` must name a file that exists, got 'no.py'",
            None,
        ),
        ("tasks.0.rate=inf", "`tasks.0.rate` must be finite, got inf", None),
        (
            "outer_steps",
            "`--set` must have the form key=value, got `outer_steps`",
            "for example `--set unroll.length=25`",
        ),
        (
            "unroll..length=3",
            "`--set` must have the form key=value, got `unroll..length=3`",
            "for example `--set unroll.length=25`",
        ),
        ("outer_steps.x=3", "`outer_steps` must be a table, got 40", None),
        ("suite=mine", "unknown key `suite`", "lopt sets it by itself"),
    ],
)
def test_a_broken_rule_is_told_with_name_rule_and_value(suite, override, message, hint):
    error = error_of(suite, override)
    assert (error.message, error.hint) == (message, hint)
    assert error.exit_code == 2


def test_a_value_that_is_not_toml_is_named(suite):
    error = error_of(suite, "optimizer.hidden_sizes=[1, 2")
    assert error.message.startswith("`optimizer.hidden_sizes` must have a value in TOML")


@pytest.mark.parametrize("content", ["", "outer_steps = 3\n", "tasks = []\n"])
def test_an_empty_suite_is_refused(suite, content):
    suite.write_text(content)
    error = error_of(suite)
    assert error.message == "a suite must have at least one task, got none"
    assert "[[tasks]]" in error.hint


def test_broken_toml_is_told_with_its_line(suite):
    suite.write_text(SUITE + "\nwidth = = 3\n")
    line = SUITE.count("\n") + 2
    error = error_of(suite)
    assert f"suite `{suite}` is not valid TOML" in error.message
    assert f"line {line}" in error.message


def test_what_is_no_text_file_is_told(suite, tmp_path):
    suite.write_bytes(b"\x80\x81\xff\x00")
    assert error_of(suite).message == f"suite `{suite}` is not a text file"
    assert "is a directory" in error_of(tmp_path).message
    absent = tmp_path / "absent.toml"
    assert "no such file" in error_of(absent).message
    assert "no such file" in error_of(tmp_path / "absent.py").message


def test_a_date_is_not_an_option(suite):
    suite.write_text(SUITE + "day = 2020-01-01\n")
    assert error_of(suite).message.startswith("`tasks.1.day` must be a number")


def test_options_may_not_be_a_table_of_their_own(suite):
    error = error_of(suite, "optimizer.options.size=3")
    assert error.message.startswith("`optimizer.options` must not be a table")


def test_released_suites_are_found_by_name_and_a_path_wins(tmp_path, monkeypatch):
    names = released_names("tasks")
    assert "digits" in names
    assert load_suite("digits").suite == "digits"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text(SUITE)
    assert load_suite("digits").description == "two small networks"


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown suite `digts`") as caught:
        released("tasks", "digts")
    assert caught.value.hint == "did you mean `digits`?"
    with pytest.raises(CheckpointError, match="unknown checkpoint `nothing-like-it`"):
        released("checkpoints", "nothing-like-it")


def test_a_python_file_is_a_suite_of_one_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_task.py").write_text("")
    config = load_suite("my_task.py", ["tasks.0.num_steps=7"])
    assert config.tasks == (TaskConfig(file=str(tmp_path / "my_task.py"), num_steps=7),)
    assert check_trust("my_task.py", config)


def test_files_are_looked_up_beside_what_names_them(tmp_path, monkeypatch):
    folder, elsewhere = tmp_path / "suites", tmp_path / "elsewhere"
    for path in (folder, elsewhere):
        path.mkdir()
        (path / "task.py").write_text("")
    suite = folder / "suite.toml"
    suite.write_text('[[tasks]]\nfile = "task.py"\n[[tasks]]\nfamily = "mlp"\n')
    monkeypatch.chdir(elsewhere)
    config = load_suite(suite, ["optimizer.name=task.py:mine"])
    assert config.tasks[0].file == str(folder / "task.py")
    assert config.optimizer.name == f"{elsewhere / 'task.py'}:mine"
    assert python_files(config) == (
        str(elsewhere / "task.py"),
        str(folder / "task.py"),
    )


def test_files_that_a_suite_names_need_trust_and_others_do_not(suite, tmp_path):
    assert check_trust(suite, load_suite(suite)) is False
    task = tmp_path / "task.py"
    task.write_text("")
    by_hand = load_suite(suite, [f"optimizer.name={task}:mine"])
    assert check_trust(suite, by_hand)

    suite.write_text(SUITE + '[[tasks]]\nfile = "task.py"\n')
    config = load_suite(suite)
    with pytest.raises(ConfigError, match="would run the Python file") as caught:
        check_trust(suite, config)
    assert "--trust" in caught.value.hint
    assert check_trust(suite, config, trust=True)


def test_configurations_made_in_python_are_checked_alike():
    with pytest.raises(BrokenRule, match=r"`length` must be at least 1, got -1"):
        UnrollConfig(length=-1)
    with pytest.raises(ConfigError, match="got both"):
        TaskConfig(family="mlp", file="task.py")
    with pytest.raises(BrokenRule, match=r"`x\.0` must be a number"):
        ComponentConfig(name="layerwise", options={"x": [object()]})


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
    assert check_trust(suite, by_hand) is True
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
