"""What cannot be meta-trained is told in one line, and nothing is started."""

import pytest

import lopt.cli
from lopt.trainer import Trainer

SUITE = """
outer_steps = 2
[unroll]
length = 10
[[tasks]]
family = "mlp"
width = 4
depth = 1
min_steps = 10
"""
WITHOUT_META = """
from dataclasses import replace
from lopt.families.mlp import mlp

def task():
    return replace(mlp(width=4, depth=1), splits=("train", "valid", "test"), name="mine")
"""
META = "unroll.meta_split"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where a training that starts is noticed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.toml").write_text(SUITE)
    (tmp_path / "mine.py").write_text(WITHOUT_META)
    monkeypatch.setattr("lopt.cli.process.set_up", lambda devices: None)
    monkeypatch.setattr(Trainer, "init", lambda *_: pytest.fail("it was started"))
    return tmp_path


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        (
            "suite.toml --estimator tbptt --set estimator.sigma=0.1",
            "unknown key of `estimator` `sigma`",
            "known: `clip_norm`, `num_runs`, `rematerialize`",
        ),
        (
            "suite.toml --estimator full_gradient --set estimator.num_pairs=4",
            "unknown key of `estimator` `num_pairs`",
            "did you mean `num_runs`?",
        ),
        (
            "suite.toml --estimator pes --set estimator.period=2",
            "unknown key of `estimator` `period`",
            "known: `num_pairs`, `sigma`, `sigma_end`",
        ),
        (
            "suite.toml --set estimator.sigma=0",
            "`estimator.sigma` must be positive, got 0",
            "",
        ),
        (
            "suite.toml --set estimator.sigma_end=-0.5",
            "`estimator.sigma_end` must be positive, got -0.5",
            "",
        ),
        (
            "suite.toml --set estimator.sigma={network=0.1,netwrk=0.2}",
            "`estimator.sigma` must name meta-parameters by a prefix of their paths, "
            "got 'netwrk'",
            "meta-parameters: `network/b0`, `network/b1`",
        ),
        (
            "suite.toml --set unroll.length=20",
            "`tasks.0.min_steps` must be at least `unroll.length` = 20, got 10",
            "no truncation may be longer than a run: lower `unroll.length`",
        ),
        (
            "suite.toml --set estimator.num_pairs=0",
            "`estimator.num_pairs` must be at least 1, got 0",
            "",
        ),
        (
            "suite.toml --estimator mixed --set estimator.num_pairs=1",
            "`estimator.num_pairs` must be at least 2, got 1",
            "",
        ),
        (
            "suite.toml --estimator nes --set estimator.population=7",
            "`estimator.population` must be an even number, at least 2, got 7",
            "",
        ),
        (
            "mine.py",
            f"`{META}` must be a split that task `mine` has (train, valid, test), got "
            "'meta'",
            f"`{META}=train` reads the minibatches that steps are taken on",
        ),
        (
            "suite.toml --optimizer layerwse",
            "unknown optimizer `layerwse`",
            "did you mean `layerwise`?",
        ),
        (
            "suite.toml --optimizer schedule",  # files alone hold it
            "unknown optimizer `schedule`",
            "known: `adafac_mlp`, `celo`, ",
        ),
        (
            f"suite.toml --set {META}=test",
            f"`{META}` must be `meta` or `train`, got 'test'",
            "",
        ),
    ],
)
def test_what_cannot_be_trained(line, message, hint, folder, capsys):
    assert lopt.cli.run(["meta-train", *line.split(), "--out", "run"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    first, _, rest = told.err.strip().partition("\n\n")
    assert first == f"error: {message}"
    assert rest.startswith(f"hint: {hint}") if hint else rest == ""
    assert not (folder / "run").exists()


def test_what_can_be_is_started(folder):
    with pytest.raises(pytest.fail.Exception, match="it was started"):
        lopt.cli.run(["meta-train", "suite.toml", "--out", "run"])
