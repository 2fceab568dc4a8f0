"""`--from`: runs that start at the weights of a file or of another run."""

import os
import shutil
import signal

import numpy as np
import pytest
from toy_runs import TOY, Recorder, toy_run

from lopt.checkpoint import read, save_file
from lopt.errors import ConfigError
from lopt.run import Interrupted, meta_train


def test_from_starts_at_the_given_theta(straight, tmp_path):
    file = tmp_path / "toy.safetensors"
    save_file(read(straight.folder, trust=True), file)
    frozen = ["outer_steps=1", "outer_optimizer.learning_rate=1e-30"]
    for source in (straight.folder, file, straight.folder / "checkpoints" / "7"):
        run = meta_train(TOY, trust=True, start_from=source, overrides=frozen, seed=3)
        np.testing.assert_array_equal(
            run.theta["log"]["rate"], straight.theta["log"]["rate"]
        )


def test_from_takes_options_that_the_suite_does_not_give(tmp_path):
    start = meta_train(
        TOY,
        out=tmp_path / "start",
        trust=True,
        overrides=["optimizer.num_rates=3", "optimizer.rate=0.2", "outer_steps=1"],
    )
    options = {"outer_steps": 2, "checkpoint_every": 1}
    overrides = [f"{key}={value}" for key, value in options.items()]
    stop = Recorder(lambda step: step == 1 and os.kill(os.getpid(), signal.SIGINT))
    command = dict(start_from=start.folder, overrides=overrides)
    run = toy_run(tmp_path / "run", **command)
    assert run.config.optimizer.options == {"num_rates": 3, "rate": 0.2}
    with pytest.raises(Interrupted):
        long = [*overrides, "outer_steps=50"]
        toy_run(tmp_path / "two", start_from=start.folder, overrides=long, progress=stop)
    with pytest.raises(ConfigError, match="another `--from`"):
        toy_run(tmp_path / "two", resume=True, overrides=long)
    shutil.rmtree(start.folder)  # the same command works where the start is gone
    toy_run(tmp_path / "two", resume=True, start_from=start.folder, overrides=long)


def test_from_refuses_other_shapes_and_other_optimizers(straight):
    with pytest.raises(ConfigError, match="`log/rate` has shape"):
        meta_train(
            TOY,
            trust=True,
            start_from=straight.folder,
            overrides=["optimizer.num_rates=4"],
        )
    with pytest.raises(ConfigError, match="weights of"):
        meta_train(
            TOY,
            trust=True,
            start_from=straight.folder,
            overrides=["optimizer.name=layerwise"],
        )
