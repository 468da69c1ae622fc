"""Fields of settings that carry their help and the values they allow, and refuse others when they are made.

They know nothing of PEFT, torch or Hydra.
"""

from __future__ import annotations

from dataclasses import Field, field, fields
from typing import Any

from lynx_moe.errors import ConfigError, nearest

REQUIRED = "???"  # what OmegaConf takes for "must be given"


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    free: bool = False,
):
    """A dataclass field that carries its help sentence and the values it allows.

    `free` says that it changes neither the adapter nor what it is trained on: a run may go on with another value.
    """
    meta = {"help": help, "choices": choices, "low": low, "high": high, "free": free}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=meta)
    return field(default=default, metadata=meta)


class Checked:
    """Refuses, when made, a value outside what its field allows.

    `GROUP` of a class is where it stands among the settings, if its name does not say so.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        group = getattr(type(self), "GROUP", type(self).__name__.removesuffix("Settings").lower())
        for each in fields(self):
            check(f"{group}.{each.name}" if group else each.name, each, getattr(self, each.name))

    def refuse_all_nought(self, parts: str, *names: str) -> None:
        """Raises ConfigError when its `weight` is above 0 and every one of `names`, which are called `parts`, is 0."""
        if self.weight and not any(getattr(self, name) for name in names):
            raise ConfigError(
                f"{self.GROUP} is on and {parts} weigh 0",
                why="nothing would be learned by it",
                fix=f"{self.GROUP}.weight=0, or give {', '.join(names[:-1])} or {names[-1]} a weight",
            )


def check(name: str, each: Field, value: Any) -> None:
    """Raises ConfigError when `value` is not one that the field allows."""
    meta = each.metadata
    if value is None or value == REQUIRED:
        return
    if isinstance(value, list) and meta.get("choices"):
        for one in value:
            check(name, each, one)
        return
    if meta.get("choices") and value not in meta["choices"]:
        why, fix = f"it must be one of {', '.join(meta['choices'])}", nearest(value, meta["choices"])[0]
        if str(value) in ("True", "False") and "on" in meta["choices"]:
            raise ConfigError(
                f"{name} is {value!r}", why="YAML reads a bare on or off as true or false", fix="write it in quotes"
            )
        raise ConfigError(f"{name} is {value!r}", why=why, fix=f"did you mean {fix!r}?")
    low, high = meta.get("low"), meta.get("high")
    if (low is not None and value < low) or (high is not None and value > high):
        allowed = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise ConfigError(f"{name} is {value!r}", why=f"it must be {allowed}", fix=f"give a value {allowed}")
