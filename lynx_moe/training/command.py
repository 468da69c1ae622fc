"""The command line of training: Hydra composes the settings, mistakes come back as what / why / fix.

The only file that knows Hydra. Hydra writes nothing of its own into the run: the card holds the settings. Where a
sweep's points run is the business of Hydra's launchers, which of them its sweepers'; what a point is, sweeping.py's.
"""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import lynx_moe
from lynx_moe.errors import ConfigError, LynxError, nearest
from lynx_moe.training.checked import REQUIRED
from lynx_moe.training.settings import GROUPS, Settings, describe
from lynx_moe.training.sweeping import Objectives, failures, run_point

FULL_ERROR = "HYDRA_FULL_ERROR"


def register_schema() -> None:
    """Makes the settings known to Hydra under the name that conf/train.yaml lists first."""
    ConfigStore.instance().store(name="settings", node=Settings)


def to_settings(config: DictConfig) -> Settings:
    """Real settings from a composed config, every value checked.

    Raises:
        ConfigError: a value is missing, misspelt, of the wrong type, or not allowed.
    """
    for key in keys(config):
        # `+key=value` gets past Hydra's own check.
        if key not in known_keys():
            raise unknown(key, "no setting has this name")
    try:
        return OmegaConf.to_object(config)
    except OmegaConfBaseException as problem:
        raise explain(problem) from problem


def keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of everything in a config, down to what is a setting."""
    for name in config:
        key = f"{prefix}{name}"
        below = None if OmegaConf.is_missing(config, name) or key in known_keys() else config[name]
        if isinstance(below, DictConfig):
            yield from keys(below, f"{key}.")
        else:
            yield key


@cache
def known_keys() -> tuple[str, ...]:
    return tuple(name for name, *_ in describe())


def unknown(key: str, why: str) -> ConfigError:
    close = nearest(key, known_keys() if "." in key else [*known_keys(), *GROUPS])
    return ConfigError(
        f"there is no setting {key!r}", why=why, fix=f"did you mean {' or '.join(close)}? all: python train.py --help"
    )


def command(config_dir: Path, config_name: str, work: Callable[[Settings], Objectives | None]) -> None:
    """Runs `work` on the settings that the command line asks for; with `-m` once per combination.

    A mistake that somebody can act on (any LynxError) is printed without a traceback, and the exit status is 1.
    Anything else is a bug and keeps its whole traceback. In a sweep a point that fails does not stop the others;
    at the end the failed ones are named, and the exit status is 1.

    Args:
        work: returns what Optuna maximises (see `sweeping.objectives`).
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(usage(config_dir))
        return
    register_schema()
    # Hydra would print its own report and cut tracebacks short; with this it lets everything through to us.
    os.environ.setdefault(FULL_ERROR, "1")
    this_command = uuid.uuid4().hex
    sweep: Path | None = None

    # Launchers carry this function, with what it closes over, into other processes and onto other machines.
    @hydra.main(version_base="1.3", config_path=str(config_dir.resolve()), config_name=config_name)
    def main(config: DictConfig) -> Objectives | None:
        running = HydraConfig.get()
        if running.mode != RunMode.MULTIRUN:
            return work(to_settings(config))
        join_processes(running.launcher)
        return run_point(
            lambda: to_settings(config),
            work,
            folder=Path(running.runtime.output_dir),
            sweep=Path(running.sweep.dir).absolute(),
            command=this_command,
        )

    try:
        given = get_args_parser().parse_args()
        if given.multirun:
            sweep, added = plan_sweep(config_dir, config_name, given.overrides)
            # Behind the last of the others, where it wins over them; argparse wants all overrides in one place.
            last = given.overrides[-1] if given.overrides else sys.argv[-1]
            at = len(sys.argv) - sys.argv[::-1].index(last)
            sys.argv[at:at] = added
        main()
    except LynxError as problem:
        fail(problem)
    except (HydraException, OmegaConfBaseException) as problem:
        fail(explain(problem))
    except Exception:
        # Not from a point, which keeps its own: a launcher lost a process, for want of memory, say.
        if sweep is not None:
            name_failures(sweep, this_command)
        raise
    if sweep is not None and name_failures(sweep, this_command):
        raise SystemExit(1)


def plan_sweep(config_dir: Path, config_name: str, overrides: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder of a sweep, and what has to be added to its command line.

    A point's folder is named by what is swept, not by what all points have in common. Optuna gets both objectives and
    a database in the sweep's folder, unless the command says otherwise.

    Raises:
        ConfigError: Optuna is asked for, and nothing measures the runs, or torchrun started this.
    """
    given = OverridesParser.create().parse_overrides(list(overrides))
    common = [each for each in given if not each.is_sweep_override()]
    with hydra.initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
        whole = hydra.compose(config_name, overrides=[each.input_line for each in common], return_hydra_config=True)
    folder = Path(whole.hydra.sweep.dir).absolute()
    unnamed = [*whole.hydra.job.config.override_dirname.exclude_keys, *(each.key_or_group for each in common)]
    added = [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(sorted(set(unnamed)))}]"]
    # Launchers start new processes in the same folder, but not from this file: a checkout must be found there too.
    beside = str(Path(lynx_moe.__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), beside) if p)
    if "optuna" in whole.hydra.sweeper._target_:
        if whole.evaluation.split is None:
            raise ConfigError(
                "nothing measures the runs of this sweep",
                why="Optuna is led by grounding and retention, and evaluation.split is null",
                fix="evaluation.split=validation",
            )
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "Optuna cannot choose points for several processes at a time",
                why="each process of torchrun would choose points of its own",
                fix="start one process with hydra/launcher=submitit_slurm hydra.launcher.tasks_per_node=...",
            )
        folder.mkdir(parents=True, exist_ok=True)
        asked = {each.key_or_group: each.value() for each in common}
        added += guide(whole.hydra, folder, {key for key in asked if key.startswith("hydra.sweeper.")})
    return folder, added


def guide(chosen: DictConfig, folder: Path, asked: set[str]) -> list[str]:
    """Optuna's settings where the command does not give them: both objectives, a database, as many trials as are left.

    Raises:
        ConfigError: other directions than to maximise both objectives.
    """
    # Optuna 2 uses what SQLAlchemy 1.4 calls old; that is no news to a user.
    os.environ.setdefault("SQLALCHEMY_SILENCE_UBER_WARNING", "1")
    from lynx_moe.training.study import go_on

    directions = ["maximize", "maximize"]
    ours = {"direction": directions, "storage": f"sqlite:///{folder / 'study.db'}", "study_name": "sweep"}
    # One failed trial is no reason to end the study.
    ours["max_failure_rate"] = 1.0
    if "Basic" in chosen.launcher._target_:
        # Nothing runs beside another here, so each trial may learn from all before it.
        ours["n_jobs"] = 1
    added = {name: value for name, value in ours.items() if f"hydra.sweeper.{name}" not in asked}
    if "direction" not in added:
        raise ConfigError(
            f"hydra.sweeper.direction is {chosen.sweeper.direction}",
            why="a run has two objectives, grounding and retention, and more is better of both",
            fix="leave hydra.sweeper.direction out",
        )
    both = {**chosen.sweeper, **added}
    added["n_trials"] = go_on(both["storage"], both["study_name"], directions, both["n_trials"])
    return [f"hydra.sweeper.{name}={quoted(value)}" for name, value in added.items()]


def quoted(value: object) -> str:
    """A value in Hydra's grammar of overrides."""
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return f"[{','.join(value)}]" if isinstance(value, list) else str(value)


def join_processes(launcher: DictConfig) -> None:
    """Lets the several tasks that submitit starts for one point find each other, as torchrun's processes do."""
    if "submitit" in launcher._target_ and launcher.tasks_per_node * launcher.nodes > 1:
        from submitit.helpers import TorchDistributedEnvironment

        # Accelerate picks the device by LOCAL_RANK.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def name_failures(sweep: Path, command: str) -> int:
    """Names the points of a sweep that failed and says how to look at the others; returns how many failed."""
    failed = failures(sweep, command)
    for name, reason in failed.items():
        print(f"failed: {name}: {reason['what']}\n  why: {reason['why']}\n  fix: {reason['fix']}", file=sys.stderr)
    where = os.path.relpath(sweep)
    print(f"look at the runs: lynx-moe report {sweep if where.startswith('..') else where}")
    if failed:
        print(f"{len(failed)} failed; the same command tries them again and skips what is done", file=sys.stderr)
    return len(failed)


def fail(problem: LynxError) -> None:
    """Prints the error as what / why / fix and ends the program with status 1."""
    print(f"{type(problem).__name__}: {problem}", file=sys.stderr)
    raise SystemExit(1)


def explain(problem: Exception) -> ConfigError:
    """The same mistake as a ConfigError that offers the nearest names."""
    if isinstance(problem, MissingConfigException) and problem.options:
        asked = str(problem.missing_cfg_file)
        group, _, name = asked.rpartition("/")
        if group.startswith("hydra/") and name.split("_")[0] in ("joblib", "submitit", "optuna"):
            return ConfigError(
                f"{group}={name} is not installed", why="it is a plugin of Hydra", fix="pip install 'lynx-moe[sweep]'"
            )
        return ConfigError(
            f"there is no {asked}.yaml in conf/",
            why=f"{group or 'conf'} offers {', '.join(problem.options)}",
            fix=f"did you mean {' or '.join(f'{group}={n}' for n in nearest(name, problem.options))}?",
        )
    cause = problem.__cause__ if isinstance(problem.__cause__, OmegaConfBaseException) else problem
    text = f"{problem}\n{cause}"
    first = str(cause).strip().splitlines()[0]
    key = re.search(r"full_key: (\S+)", text) or re.search(r"override '\+*([\w.]+)", text)
    key = key[1].rstrip("'") if key else ""
    if "issing mandatory value" in text or "MissingMandatoryValue" in type(cause).__name__:
        return ConfigError(f"{key} is not set", why="it has no default", fix=f"give {key}=... on the command line")
    if several := re.search(r"Multiple values for ([\w/]+)", text):
        group = several[1]
        return ConfigError(
            f"{group} is given a second time",
            why="the experiment, or another of these arguments, has chosen it already",
            fix=f"'+{group}=[ONE,OTHER]' once, with an experiment that leaves it open (experiment=beside)",
        )
    if key and key not in known_keys():
        return unknown(key, first)
    return ConfigError(
        f"cannot use {key or 'these settings'}: {first}",
        why="Hydra could not compose them",
        fix="see python train.py --help",
    )


def usage(config_dir: Path) -> str:
    """The text of `--help`: groups with their options, then every setting with its default and meaning."""
    lines = ["python train.py [group=option ...] [key=value ...] [-m key=v1,v2]", "", "groups"]
    for folder in sorted(p for p in config_dir.iterdir() if p.is_dir()):
        lines.append(f"  {folder.name:12} {', '.join(sorted(p.stem for p in folder.glob('*.yaml')))}")
        for inner in sorted(p for p in folder.iterdir() if p.is_dir()):
            names = ", ".join(sorted(p.stem for p in inner.glob("*.yaml")))
            lines.append(f"  {folder.name}/{inner.name}   {names} (added: +{folder.name}/{inner.name}=[name,...])")
    lines += ["", "settings"]
    width = max(len(name) for name in known_keys())
    shown = {None: "null", REQUIRED: "required"}
    for name, _, default, text in describe():
        value = shown.get(default, default) if isinstance(default, str | None) else default
        lines.append(f"  {name:{width}}  {text} [{value}]")
    return "\n".join(lines)


def conf_beside() -> Path:
    """The `conf/` folder of the checkout that this package lies in.

    Raises:
        ConfigError: this is no checkout; an installed wheel carries no YAML files.
    """
    beside = Path(lynx_moe.__file__).resolve().parents[1]
    if not (beside / "conf").is_dir():
        raise ConfigError(
            f"no conf/ in {beside}",
            why="settings are composed from its YAML files, which an installed wheel does not carry",
            fix="run it from a clone: pip install -e '.[train]', then the same command",
        )
    return beside / "conf"


def settings_from(config_dir: Path, config_name: str, overrides: Sequence[str] = ()) -> Settings:
    """What `python train.py <overrides>` would run, composed without running it.

    Raises:
        ConfigError: the overrides or a file in `config_dir` make no settings.
    """
    register_schema()
    try:
        with hydra.initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
            return to_settings(hydra.compose(config_name, overrides=list(overrides)))
    except (HydraException, OmegaConfBaseException) as problem:
        raise explain(problem) from problem
