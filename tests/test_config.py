"""Configurations: defaults, precedence, round trips, files and trust."""

import json

import pytest
from configs import SUITE, write_suite

from lopt.config import (
    BrokenRule,
    ComponentConfig,
    OuterOptimizerConfig,
    PretrainConfig,
    RunConfig,
    StartConfig,
    TaskConfig,
    UnrollConfig,
    check_trust,
    from_dict,
    load_suite,
    python_files,
    released_names,
    to_dict,
)
from lopt.errors import ConfigError


@pytest.fixture
def suite(tmp_path):
    return write_suite(tmp_path)


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


def test_released_suites_are_found_by_name_and_a_path_wins(tmp_path, monkeypatch):
    names = released_names("tasks")
    assert "digits" in names
    assert load_suite("digits").suite == "digits"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text(SUITE)
    assert load_suite("digits").description == "two small networks"


def test_a_python_file_is_a_suite_of_one_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_task.py").write_text("")
    config = load_suite("my_task.py", ["tasks.0.num_steps=7"])
    assert config.tasks == (TaskConfig(file=str(tmp_path / "my_task.py"), num_steps=7),)
    assert check_trust("my_task.py", config) == {tmp_path / "my_task.py"}


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
    assert not check_trust(suite, load_suite(suite))
    task = tmp_path / "task.py"
    task.write_text("")
    by_hand = load_suite(suite, [f"optimizer.name={task}:mine"])
    assert check_trust(suite, by_hand) == {task}

    suite.write_text(SUITE + '[[tasks]]\nfile = "task.py"\n')
    config = load_suite(suite)
    with pytest.raises(ConfigError, match="would run the Python file") as caught:
        check_trust(suite, config)
    assert "--trust" in caught.value.hint
    assert check_trust(suite, config, trust=True) is True


def test_configurations_made_in_python_are_checked_alike():
    with pytest.raises(BrokenRule, match=r"`length` must be at least 1, got -1"):
        UnrollConfig(length=-1)
    with pytest.raises(ConfigError, match="got both"):
        TaskConfig(family="mlp", file="task.py")
    with pytest.raises(BrokenRule, match=r"`x\.0` must be a number"):
        ComponentConfig(name="layerwise", options={"x": [object()]})


STARTS = """
[[tasks]]
family = "mlp"
dataset = "own.npz"
start.file = "start.safetensors"
start.frozen = ["a", "b/*"]
[[tasks]]
family = "mlp"
start.pretrain = { steps = 3, learning_rate = 1, classes = [0, 1], dataset = "o/p" }
"""


def test_starts_are_read_resolved_and_round_trip(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    suite = tmp_path / "suite.toml"
    suite.write_text(STARTS)
    config = load_suite(suite, ["tasks.1.start.pretrain.seed=7"])
    one, two = (task.start for task in config.tasks)
    assert one == StartConfig(
        file=str(tmp_path / "start.safetensors"), frozen=("a", "b/*")
    )
    options = {"classes": [0, 1], "dataset": str(tmp_path / "o/p")}
    assert two.pretrain == PretrainConfig(
        steps=3, learning_rate=1.0, seed=7, options=options
    )
    assert config.tasks[0].options == {"dataset": str(tmp_path / "own.npz")}
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    by_hand = load_suite(suite, ["tasks.0.start.file=x/y"])
    assert by_hand.tasks[0].start.file == str(tmp_path / "elsewhere/x/y")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("start=x", "`tasks.0.start` must be a table, got 'x'"),
        ("start={}", "`tasks.0.start`: a start must have a `file` or a `pretrain`, got"),
        ("start.file=''", "`tasks.0.start`: a start must have a `file` or a `pretrain`"),
        (
            "start={file='x', pretrain={steps=3}}",
            "`tasks.0.start`: a start must have a `file` or a `pretrain`, got both",
        ),
        ("start.frosen=['x']", "unknown key of `tasks.0.start` `frosen`"),
        ("start.frozen=x", "`tasks.0.start.frozen` must be a list, got 'x'"),
        ("start.fresh=[3]", "`tasks.0.start.fresh.0` must be a string, got 3"),
        ("start.file=3", "`tasks.0.start.file` must be a string, got 3"),
        ("start.pretrain=3", "`tasks.0.start.pretrain` must be a table, got 3"),
        ("start.pretrain.steps=0", "`tasks.0.start.pretrain.steps` must be at least 1"),
        (
            "start.pretrain.learning_rate=0",
            "`tasks.0.start.pretrain.learning_rate` must be positive, got 0",
        ),
        (
            "start.pretrain.schedule=cosin",
            "`tasks.0.start.pretrain.schedule` must be `cosine` or `constant`, got",
        ),
    ],
)
def test_mistakes_in_a_start_are_told(tmp_path, override, message):
    suite = tmp_path / "suite.toml"
    suite.write_text('[[tasks]]\nfamily = "mlp"\n')
    with pytest.raises(ConfigError) as caught:
        load_suite(suite, [f"tasks.0.{override}"])
    assert caught.value.message.startswith(message)
