"""The command line of training: Hydra composes the settings, mistakes come back as what / why / fix.

The only file that knows Hydra. Hydra writes nothing of its own into the run: the card holds the settings.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import lynx_moe
from lynx_moe.errors import ConfigError, LynxError, nearest
from lynx_moe.training.settings import GROUPS, REQUIRED, Settings, describe

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


def command(config_dir: Path, config_name: str, work: Callable[[Settings], object]) -> None:
    """Runs `work` on the settings that the command line asks for; with `-m` once per combination.

    A mistake that somebody can act on (any LynxError) is printed without a traceback, and the exit status is 1.
    Anything else is a bug and keeps its whole traceback.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(usage(config_dir))
        return
    register_schema()
    # Hydra would print its own report and cut tracebacks short; with this it lets everything through to us.
    os.environ.setdefault(FULL_ERROR, "1")

    @hydra.main(version_base="1.3", config_path=str(config_dir.resolve()), config_name=config_name)
    def main(config: DictConfig) -> None:
        settings = to_settings(config)
        running = HydraConfig.get()
        if running.mode == RunMode.MULTIRUN:
            # Each combination of a sweep gets its own folder under the output_dir of all.
            settings.output_dir = running.runtime.output_dir
        work(settings)

    try:
        main()
    except LynxError as problem:
        fail(problem)
    except (HydraException, OmegaConfBaseException) as problem:
        fail(explain(problem))


def fail(problem: LynxError) -> None:
    """Prints the error as what / why / fix and ends the program with status 1."""
    print(f"{type(problem).__name__}: {problem}", file=sys.stderr)
    raise SystemExit(1)


def explain(problem: Exception) -> ConfigError:
    """The same mistake as a ConfigError that offers the nearest names."""
    if isinstance(problem, MissingConfigException) and problem.options:
        asked = str(problem.missing_cfg_file)
        group, _, name = asked.rpartition("/")
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
