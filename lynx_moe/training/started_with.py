"""What a run was started with, kept in its folder, so that the same command is known again and another is refused."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lynx_moe.training.settings import Settings, describe, free_settings

PLACES = ("model.path", "data.folder")  # the same wherever the command is given from


def started_with(settings: Settings, processes: int | None = None) -> dict:
    """What settings.json of a run's folder holds.

    Args:
        processes: how many train together; None when that is not asked.
    """
    values = flat(asdict(settings))
    places = {name: str(Path(values[name]).resolve()) for name in PLACES if os.path.exists(values[name])}
    places.setdefault("data.folder", str(Path(values["data.folder"]).resolve()))  # perhaps about to be made
    return {"settings": asdict(settings), "places": places, "processes": processes}


def flat(settings: dict) -> dict[str, Any]:
    """Dotted name to value, as JSON gives it back."""
    found = json.loads(json.dumps(settings))
    known = [name for name, *_ in describe()]
    return {name: value for name in known if (value := _at(found, name, missing := object())) is not missing}


def differences(before: dict, now: dict) -> list[str]:
    """In words, every setting that can change the result or what it is computed from, and differs."""
    old, new = flat(before["settings"]), flat(now["settings"])
    default = {name: value for name, _, value, _ in describe()}
    free = free_settings()
    said = []
    for name, value in new.items():
        was = old.get(name, default[name])  # a setting that a run of an older version did not have
        one, other = before.get("places", {}).get(name, was), now["places"].get(name, value)
        if name not in free and was != value and one != other:
            said.append(f"{name} was {shown(was)}, is {shown(value)}")
    counts = before.get("processes"), now["processes"]
    if None not in counts and counts[0] != counts[1]:
        said.append(f"the number of processes was {counts[0]}, is {counts[1]}")
    return said


def shown(value: Any) -> str:
    return "null" if value is None else json.dumps(value) if not isinstance(value, str) else value


def _at(settings: dict, name: str, missing: object) -> Any:
    value: Any = settings
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return missing
        value = value[part]
    return value
