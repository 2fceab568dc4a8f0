"""Evaluation as a process: from names to files, around the pure comparison.

`evaluate` finds the learned optimizer, the tasks and the baselines, compares them, and
writes `results.json` and `report.html`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lopt.checkpoint import Checkpoint, read
from lopt.config import RunConfig, check_trust, load_suite, locate, released_names
from lopt.errors import ConfigError, unknown_name
from lopt.evaluation import comparison, report
from lopt.evaluation.baselines import BASELINES
from lopt.evaluation.results import Results
from lopt.evaluation.schedule import schedule
from lopt.suites import build_tasks


def evaluate(
    optimizer: str | Path,
    suite: str | Path | RunConfig = "digits-heldout",
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    baselines: Sequence[str] | None = None,
    trust: bool = False,
    **settings: Any,
) -> Results:
    """Compares a learned optimizer with tuned baselines on the tasks of a suite.

        results = lopt.evaluate("runs/digits", "digits-heldout", trials=8)

    Args:
      optimizer: an exported file, a run, a snapshot, or a released name; a path wins.
      suite: a released suite's name, a TOML or Python file, or a configuration.
      out: a folder for `results.json` and `report.html`; None: nothing is written.
      overwrite: whether an evaluation in that folder is replaced.
      baselines: names in `evaluation.baselines.BASELINES`, "schedule" for the control
        that is made of this optimizer, or other learned optimizers, named as
        `optimizer` is; None: all baselines, no controls.
      trust: whether Python files that a suite or a checkpoint names may be run.
      settings: of `comparison.evaluate`: `trials`, `seeds`, `tuning_seeds`, `budgets`,
        `seed`, `lanes`, `progress`.

    Raises:
      ConfigError: a mistake in the suite, the folder or a setting, or a control that the
        optimizer does not have; nothing was changed.
      CheckpointError: no such optimizer, or it is damaged.
    """
    if isinstance(suite, RunConfig):
        config = suite
    else:
        config = load_suite(suite)
        trust = check_trust(suite, config, trust=trust)
    if out is not None:
        check_folder(Path(out), overwrite=overwrite)
    checkpoint = read(optimizer, trust=trust)
    if baselines is not None:
        settings["baselines"] = [
            _baseline(name, checkpoint, trust=trust) for name in baselines
        ]
    progress = settings.get("progress")
    notify = (lambda text: progress(text, 0.0)) if progress else None
    results = comparison.evaluate(
        checkpoint.lopt,
        checkpoint.theta,
        build_tasks(config, trust=trust, notify=notify),
        name=_name(optimizer),
        suite=config.suite,
        **settings,
    )
    if out is not None:
        report.write(results, Path(out))
    return results


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuses a folder that cannot take an evaluation, before any work is done.

    Raises:
      ConfigError: it holds one already, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"`{folder}` is a file, and an evaluation needs a folder")
    if (folder / report.RESULTS_FILE).exists() and not overwrite:
        raise ConfigError(
            f"`{folder / report.RESULTS_FILE}` exists already",
            hint="choose another folder with `--out`, or pass `--force`",
        )


def _baseline(name: str, ours: Checkpoint, *, trust: bool) -> comparison.Rival:
    if name in BASELINES:
        return name
    if name == "schedule":
        return schedule(ours, trust=trust)
    is_name = not Path(name).exists() and len(Path(name).parts) == 1
    if is_name and not Path(name).suffix:
        released = released_names("checkpoints")
        if name not in released:
            raise unknown_name("baseline", name, {*BASELINES, "schedule", *released})
    checkpoint = read(name, trust=trust)
    return _name(name), checkpoint.lopt, checkpoint.theta


def _name(optimizer: str | Path) -> str:
    """What an optimizer is called in tables: its file's or its run's name."""
    return locate(optimizer).absolute().stem
