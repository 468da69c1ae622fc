"""What an export can say of its origin: the command, the base's name, the run's numbers, the data's licences."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "pkg://"


@dataclass(frozen=True)
class Data:
    """What the adapter was trained on.

    Attributes:
        name: the folder's own name; where it lies is nobody's business.
        splits: those that the run read.
        records: how many of each kind.
        licences: of the pictures in these splits, as the data's manifest has them.
        unknown: why the licences are not known, None when they are.
    """

    name: str
    splits: tuple[str, ...] = ()
    records: dict[str, int] = field(default_factory=dict)
    licences: tuple[str, ...] = ()
    unknown: str | None = None


@dataclass(frozen=True)
class Provenance:
    """All of it optional: a model exported from Python brings none.

    Attributes:
        command: what was typed.
        repository, revision: the base's name and commit on the Hub.
        data: of the run; None when no run is known.
        evaluation: what the run measured of itself ("before", "after", "change", "split", "gate", "n").
        notes: sentences that plan and card repeat.
    """

    command: str | None = None
    repository: str | None = None
    revision: str | None = None
    data: Data | None = None
    evaluation: dict | None = None
    notes: tuple[str, ...] = ()


def of_run(folder: str | Path) -> Provenance:
    """What `run.json` in `folder` and the manifest of its data say; empty where there is no run."""
    try:
        card = json.loads((Path(folder) / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Provenance()
    path = str(card["settings"]["model"]["path"])
    return Provenance(
        repository=path if path.startswith(PACKAGE) else None,
        data=_data(card),
        evaluation=card.get("evaluation"),
    )


def _data(card: dict) -> Data:
    settings, said = card["settings"]["data"], card["data"]
    splits = tuple(dict.fromkeys(filter(None, (settings["split"], settings.get("prompts")))))
    found = Data(Path(said["folder"]).name, splits, dict(said.get("records") or {}))
    try:
        content = (Path(said["folder"]) / "manifest.json").read_bytes()
        manifest = json.loads(content)
    except (OSError, ValueError):
        return Data(found.name, splits, found.records, unknown="the data's manifest is not where the run read it")
    if hashlib.sha256(content).hexdigest() != said.get("manifest_sha256"):
        return Data(found.name, splits, found.records, unknown="the data's manifest was written anew since the run")
    named = manifest.get("splits") or {}
    licences = sorted({one for split in splits for one in (named.get(split) or {}).get("licences", ())})
    return Data(found.name, splits, found.records, tuple(licences or manifest.get("licences", ())))
