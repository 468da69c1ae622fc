"""An Optuna study that outlives an interruption. The only file that imports Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import optuna
from optuna.trial import FrozenTrial, TrialState

from lynx_moe.errors import ConfigError


def go_on(storage: str, name: str, directions: Sequence[str], trials: int) -> int:
    """Makes a study ready for the same command again, and says how many trials are left to do.

    Trials that were under way when the process died, and trials that failed, are proposed again before any new one:
    their points go on from their checkpoints, or are tried once more.

    Args:
        storage: URL of the study's database; a study that is not there is made.
        trials: how many are wanted in all.

    Returns:
        Trials to run now; 0 when all are done.

    Raises:
        ConfigError: Optuna cannot keep a study with the SQLAlchemy that is installed.
    """
    if int(version("sqlalchemy").partition(".")[0]) > 1:
        # Optuna 2 leaves its transactions to be committed by SQLAlchemy, which 2.0 no longer does.
        raise ConfigError(
            f"SQLAlchemy {version('sqlalchemy')} is installed",
            why=f"Optuna {version('optuna')}, which Hydra's sweeper needs, keeps its studies with SQLAlchemy below 2",
            fix="pip install 'lynx-moe[sweep]'",
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name=name, storage=storage, directions=list(directions), load_if_exists=True)
    seen = study.get_trials(deepcopy=False)
    done = [trial for trial in seen if trial.state == TrialState.COMPLETE]
    waiting = [trial.system_attrs.get("fixed_params") for trial in seen if trial.state == TrialState.WAITING]
    for trial in seen:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
    for trial in seen:
        if trial.state in (TrialState.RUNNING, TrialState.FAIL) and again(trial, done, waiting):
            study.enqueue_trial(trial.params)
            waiting.append(trial.params)
    return max(0, trials - len(done))


def again(trial: FrozenTrial, done: Sequence[FrozenTrial], waiting: Sequence[dict | None]) -> bool:
    """Whether a trial that did not end well has still to be repeated."""
    return bool(trial.params) and trial.params not in waiting and trial.params not in [each.params for each in done]
