"""Command line: ``python -m synth [key=value ...]`` makes data; subcommands look at what is made."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from hydra import compose, initialize, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from synth.commands import COMMANDS
from synth.errors import SettingsError, SynthError, nearest
from synth.settings import Settings
from synth.sources import AUTO, SOURCES
from synth.tasks import TASKS
from synth.write import make

CONF = Path(__file__).resolve().parents[1] / "conf"  # beside the package in a checkout; an installed synth needs none


def settings_from(overrides: list[str]) -> Settings:
    """Compose settings from Hydra overrides; raises ``SettingsError``, with the nearest names for an unknown key."""
    known = _keys(Settings)
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or key not in known:
            raise SettingsError(
                f"unknown setting {override!r}" if equals else f"{override!r} is not of the form key=value",
                why=f"settings are {', '.join(known)}", fix=f"nearest: {nearest(key.lstrip('+~'), known)}",
            )  # fmt: skip
    ConfigStore.instance().store("synth_schema", node=Settings)
    beside = (CONF / "synth.yaml").exists()
    place = initialize_config_dir(str(CONF), version_base="1.3") if beside else initialize(None, version_base="1.3")
    try:
        with place:
            return OmegaConf.to_object(compose("synth" if beside else "synth_schema", overrides=overrides))
    except (HydraException, OmegaConfBaseException) as problem:
        first = str(problem.__cause__ or problem).strip().splitlines()[0]
        # An address may hold a key: of the server's settings only the names are repeated.
        given = " ".join(o.partition("=")[0] if o.startswith("llm.") else o for o in overrides)
        raise SettingsError(
            f"cannot read the settings: {first}", why=f"given: {given}",
            fix="write key=value with a value of the right type; lists as [a,b]; see python -m synth --help",
        ) from problem  # fmt: skip


def _keys(schema: type, prefix: str = "") -> dict[str, str]:
    """Return every dotted key with its help sentence and default."""
    keys = {}
    defaults = schema()
    for field in dataclasses.fields(schema):
        default = getattr(defaults, field.name)
        if dataclasses.is_dataclass(default):
            keys |= _keys(type(default), f"{prefix}{field.name}.")
        else:
            keys[prefix + field.name] = f"{field.metadata['help']} [{'null' if default is None else default}]"
    return keys


def usage() -> str:
    """Return the help text: every setting with its default, every task and source."""
    keys = _keys(Settings)
    width = max(map(len, keys))
    ways = ["python -m synth [key=value ...]  make a dataset folder"]
    ways += [f"python -m synth {name} --help  {command.does}" for name, command in COMMANDS.items()]
    lines = [*ways, "", *(f"  {key:{width}}  {text}" for key, text in keys.items()), ""]
    return "\n".join(
        [*lines, f"tasks:   {', '.join(sorted(TASKS))}", f"sources: {', '.join((AUTO, *sorted(SOURCES)))}"]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None and any(argument in ("-h", "--help") for argument in arguments):
        print(usage())
        return 0
    try:
        if command is not None:
            return command.run(command.parser(arguments[0]).parse_args(arguments[1:]))
        make(settings_from(arguments))
    except SynthError as problem:
        print(f"synth: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = "" if command is not None else "; finished shards are kept, the same command goes on from there"
        print(f"synth: stopped{kept}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
