"""The study of fine-tuning goes on where it was stopped, and says what it found."""

import json
import sys
from types import SimpleNamespace

import finetune_study
import pytest

TASK = """
[[tasks]]
family = "mlp"
name = "{name}"
width = 4
depth = 1
base_width = 4
batch_size = 8
classes = [0, 1]
min_steps = 5
max_steps = 10
num_steps = {steps}
start.pretrain = {{ steps = 20, classes = [2, 3], seed = {seed} }}
start.frozen = ["layer_0"]
"""
TOP = "[unroll]\nlength = 5\n"
OPTIMIZER = '[optimizer]\nbases = ["adam"]\nprior_logits = {}\nhidden_sizes = []\n'


def options_of(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["finetune_study.py", *map(str, args)])
    return finetune_study.parse()


def test_speed_ups_are_over_the_best_of_what_they_name(monkeypatch):
    groups = finetune_study.groups_of(options_of(monkeypatch, "--baselines", "sgd,lion"))
    assert groups == {
        "best": ("sgd-constant", "lion-constant", "sgd-cosine", "lion-cosine"),
        "constant": ("sgd-constant", "lion-constant"),
        "cosine": ("sgd-cosine", "lion-cosine"),
        "static": ("static",),
    }
    constant, cosine, *_ = finetune_study.scheduled("sgd,lion")
    assert (constant.name, cosine.name) == ("sgd-constant", "sgd-cosine")
    values = [found.space.values(found.space.center) for found in (constant, cosine)]
    assert [value.constant for value in values] == [True, False]


def test_a_study_that_is_done_is_not_done_again(monkeypatch, tmp_path):
    def refuse(*args):
        raise RuntimeError("meta-trains")

    monkeypatch.setattr(finetune_study, "meta_train_all", refuse)
    suite = SimpleNamespace(tasks=[SimpleNamespace(name="net-own")])
    given = options_of(monkeypatch, "--folder", tmp_path, "--kinds", "net")
    asked = {"options": {k: v for k, v in vars(given).items()}}
    for where in ("kinds", "folder", "out"):
        asked["options"].pop(where)
    (tmp_path / "net.json").write_text(json.dumps(asked))
    assert finetune_study.study(suite, suite, "net", given) == asked
    others = options_of(monkeypatch, "--folder", tmp_path, "--trials", 3)
    with pytest.raises(RuntimeError, match="meta-trains"):
        finetune_study.study(suite, suite, "net", others)


def test_the_summary_is_over_kinds_of_tasks():
    def found(**speed_ups):
        tasks = {name: {"best": {"speed_up": x}} for name, x in speed_ups.items()}
        return {"speed_ups": {"nes": tasks}}

    summary = finetune_study.summary(
        {
            "a-whole": found(**{"a-whole-own": 2.0, "a-whole-data": 1.0}),
            "a-head": found(**{"a-head-own": 4.0, "a-head-data": 5.0}),
        }
    )
    assert summary == {"own": {"nes": 3.0}, "data": {"nes": 3.0}}
    assert summary.keys() < finetune_study.REQUIRED.keys()


@pytest.mark.slow
def test_the_whole_study(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "suite.toml").write_text(
        TOP + OPTIMIZER + TASK.format(name="net", steps=16, seed=0)
    )
    heldout = TASK.format(name="net-own", steps=16, seed=0)
    heldout += TASK.format(name="net-weights", steps=16, seed=1)
    heldout += TASK.format(name="net-longer", steps=80, seed=0)
    (tmp_path / "heldout.toml").write_text(TOP + heldout)
    options = options_of(
        monkeypatch,
        *("--suite", tmp_path / "suite.toml", "--heldout", tmp_path / "heldout.toml"),
        *("--nes-steps", 2, "--pes-steps", 2, "--trials", 1, "--seeds", 2),
        *("--tuning-seeds", 1, "--baselines", "adamw", "--also", "layerwise"),
        *("--folder", tmp_path / "runs", "--out", tmp_path / "found.json"),
    )
    finetune_study.run(options)
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == ["own", "weights", "longer"]
    found = json.loads((tmp_path / "found.json").read_text())["kinds"]["net"]
    assert [found["meta_training"][e]["outer_steps"] for e in ("nes", "pes")] == [2, 2]
    config = json.loads((tmp_path / "runs/net-nes-0/config.json").read_text())
    assert config["optimizer"]["num_tensors"] == 2  # of the head
    baselines = ["adamw-constant", "adamw-cosine", "static", "pes", "layerwise"]
    assert found["results"]["settings"]["baselines"] == baselines
    monkeypatch.setattr(finetune_study, "meta_train_all", None)
    finetune_study.run(options)
    assert capsys.readouterr().out.splitlines() == told
