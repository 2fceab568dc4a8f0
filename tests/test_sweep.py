"""One task of a suite that stands for several."""

import pytest
from configs import error_of

from lopt.config import check_trust, from_dict, load_suite, to_dict
from lopt.errors import ConfigError

SWEEP = """
[[tasks]]
family = "mlp"
name = "net"
weight = 3
batch_size = 8
sweep = { width = [16, 32], depth = [1, 2, 3] }
[[tasks]]
family = "convnet"
sweep.activation = ["relu", "tanh"]
"""


def suite(folder, text=SWEEP):
    path = folder / "suite.toml"
    path.write_text(text)
    return path


def test_a_sweep_is_the_product_and_shares_the_weight(tmp_path):
    tasks = load_suite(suite(tmp_path), ["tasks.1.sweep.activation=['gelu']"]).tasks
    assert [task.name for task in tasks] == [
        "net-width-16-depth-1",
        "net-width-16-depth-2",
        "net-width-16-depth-3",
        "net-width-32-depth-1",
        "net-width-32-depth-2",
        "net-width-32-depth-3",
        None,
    ]
    assert [task.weight for task in tasks] == [0.5] * 6 + [1.0]
    assert tasks[4].options == {"batch_size": 8, "width": 32, "depth": 2}
    assert tasks[6].options == {"activation": "gelu"}


def test_what_it_stands_for_is_what_is_kept(tmp_path):
    config = load_suite(suite(tmp_path))
    assert from_dict(to_dict(config)) == config
    assert "sweep" not in str(to_dict(config))
    assert len(config.tasks) == 8


def test_a_selection_suite_may_have_one(tmp_path):
    chosen = suite(tmp_path)
    config = load_suite("digits", [f"selection.suite={chosen}"])
    assert len(config.selection.tasks) == 8


def test_datasets_are_looked_up_beside_the_suite(tmp_path, monkeypatch):
    folder = tmp_path / "suites"
    folder.mkdir()
    text = (
        '[[tasks]]\nfamily = "mlp"\nname = "on"\nsweep.dataset = ["digits", "x/a.npz"]\n'
    )
    monkeypatch.chdir(tmp_path)
    one, other = load_suite(suite(folder, text)).tasks
    assert one.options == {"dataset": "digits"}
    assert other.options == {"dataset": str(folder / "x" / "a.npz")}
    assert other.name == "on-dataset-a.npz"


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("[1]", "`tasks.0.sweep` must be a table, got [1]"),
        ("{width = 3}", "`tasks.0.sweep.width` must be a list of at least one value"),
        ("{width = []}", "`tasks.0.sweep.width` must be a list of at least one value"),
        ("{width = [[1]]}", "`tasks.0.sweep.width.0` must be a number, a string or"),
        ("{width = [8, 8]}", "`tasks.0.sweep.width.1` must be another value"),
        ("{depth = [1]}", "`tasks.0.sweep.depth` must not be given beside the sweep"),
        ("{weight = [1]}", "`tasks.0.sweep.weight` must be an option of the family"),
        ("{augment = [1]}", "`tasks.0.sweep.augment` must be an option of the family"),
        ("{sweep = [1]}", "`tasks.0.sweep.sweep` must be an option of the family"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, sweep, message):
    text = f'[[tasks]]\nfamily = "mlp"\ndepth = 2\nsweep = {sweep}\n'
    assert error_of(suite(tmp_path, text)).message.startswith(message)


def test_no_python_file_slips_in(tmp_path):
    (tmp_path / "x.py").write_text("")
    text = '[[tasks]]\nfamily = "mlp"\nsweep = {family = ["x.py:task"]}\n'
    assert "must be an option" in error_of(suite(tmp_path, text)).message
    swept = suite(tmp_path, '[[tasks]]\nfile = "x.py"\nsweep = {width = [1, 2]}\n')
    config = load_suite(swept)
    assert [task.options["width"] for task in config.tasks] == [1, 2]
    with pytest.raises(ConfigError, match="would run the Python file"):
        check_trust(swept, config)
