"""Every way to get a configuration wrong is told with name, rule and value."""

import pytest
from configs import SUITE, error_of, write_suite

from lopt.config import released
from lopt.errors import CheckpointError, ConfigError


@pytest.fixture
def suite(tmp_path):
    return write_suite(tmp_path)


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
            "`unroll.meta_transform` must be `log` or `raw` or `clipped` or `relative`, "
            "got 'exp'",
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
            "no truncation may be longer than a run: lower `unroll.length`",
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


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown suite `digts`") as caught:
        released("tasks", "digts")
    assert caught.value.hint == "did you mean `digits`?"
    with pytest.raises(CheckpointError, match="unknown checkpoint `nothing-like-it`"):
        released("checkpoints", "nothing-like-it")
