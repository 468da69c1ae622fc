"""Protocols asked of models, into one folder: rows, numbers, a page; the same command goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lynx_moe.errors import CheckpointError, ConfigError, InUseError
from lynx_moe.evaluation.asking import Asker
from lynx_moe.evaluation.curves import split
from lynx_moe.evaluation.measuring import folder_of, measure
from lynx_moe.evaluation.picture_changes import CHANGES
from lynx_moe.evaluation.protocols.base import PROTOCOLS, Protocol, Row
from lynx_moe.evaluation.robustness import Changed
from lynx_moe.evaluation.rows import RowKey, read_rows, write_rows
from lynx_moe.evaluation.summary import change_of, result_of
from lynx_moe.whole import write_json

ASKED, ROWS, RESULTS = "asked.json", "rows.parquet", "results.json"
BEFORE, AFTER = "before", "after"
PACKAGES = ("torch", "transformers", "lynx-moe")


@dataclass(frozen=True)
class Job:
    """A protocol, and under what label and condition its rows are kept (see `RowKey`)."""

    label: str
    protocol: Protocol
    variant: str = ""


@dataclass(frozen=True)
class Opened:
    """A model that is open, and what tells it from others: digests of weights, settings and processor, its gate."""

    asker: Asker
    identity: dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One model and all that it is asked while it is open."""

    side: str
    jobs: Sequence[Job]
    open: Callable[[], AbstractContextManager[Opened]]
    name: str = ""


@dataclass(frozen=True)
class Done:
    """All rows of a run and what could not be used, by key; and its protocols by label and variant."""

    rows: dict[RowKey, list[Row]]
    faults: dict[RowKey, dict[str, int]]
    protocols: dict[tuple[str, str], Protocol]


def run_protocols(
    out: Path,
    stages: Sequence[Stage],
    *,
    settings: dict[str, Any],
    limit: int | None = None,
    restart: bool = False,
    progress: bool = True,
) -> Done:
    """Asks every stage's model its protocols; writes parts as it goes and, last, all rows in one file.

    Args:
        settings: what else decides about the numbers; with the protocols and the models they make the fingerprint.
        restart: throw away what an earlier run left in `out`.

    Raises:
        ConfigError: `out` holds answers of another model, protocol or setting, and `restart` is off.
        InUseError: another process is evaluating into `out`.
        RecordError: a protocol has nothing that can be asked.
    """
    done = Done({}, {}, {(j.label, j.variant): j.protocol for stage in stages for j in stage.jobs})
    with owned(out):
        if restart:
            shutil.rmtree(out / "parts", ignore_errors=True)
            (out / ASKED).unlink(missing_ok=True)
        fingerprint = Fingerprint(out / ASKED)
        fingerprint.agree("settings", settings | {"limit": limit})
        fingerprint.agree("versions", {name: installed(name) for name in PACKAGES})
        for stage in stages:
            with stage.open() as opened:
                fingerprint.agree(f"model {stage.side} {stage.name}".strip(), opened.identity)
                for job in stage.jobs:
                    key = RowKey(stage.side, job.variant, job.label)
                    what = described(job.protocol)
                    fingerprint.agree(f"protocol {job.label} {job.variant}".strip(), what | what.pop("settings"))
                    found = measure(job.protocol, opened.asker, folder_of(out, key), limit=limit, progress=progress)
                    done.rows[key], done.faults[key] = found.rows, found.faults
        write_rows(out / ROWS, done.rows)
    return done


def results_of(done: Done) -> dict:
    """What results.json holds of the rows: "results", one entry per key; "changes" where there are two sides; and
    "under_change", what each change of the pictures costs the items that could still be asked under it.
    """
    results, changes, under = [], [], []
    for key, rows in done.rows.items():
        protocol = done.protocols[key.protocol, key.variant]
        about = {"side": key.side, "variant": key.variant, "protocol": key.protocol, **described(protocol)}
        results.append(about | result_of(protocol, rows, done.faults.get(key, {})))
        before = done.rows.get(dataclasses.replace(key, side=BEFORE))
        if key.side == AFTER and before is not None:
            changes.append(about | change_of(protocol, before, rows))
        plain = done.rows.get(dataclasses.replace(key, variant=""))
        if isinstance(protocol, Changed) and plain is not None:
            under.append(about | change_of(protocol, plain, rows))
    return {"results": results, "changes": changes, "under_change": under}


def done_again(out: Path) -> tuple[Done, dict]:
    """The rows of a finished run in `out`, its protocols made from its own results.json, and what that holds.

    Rows of a protocol that results.json does not know count for nothing, and neither do rows whose id came before;
    both are counted among the faults.

    Raises:
        CheckpointError: there is no finished run.
    """
    try:
        content = json.loads((out / RESULTS).read_text(encoding="utf-8"))
        known = {RowKey(r["side"], r["variant"], r["protocol"]): r for r in content["results"]}
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise CheckpointError(
            f"no finished evaluation in {out}", why=str(problem), fix=f"give the --out of a run that wrote {RESULTS}"
        ) from problem
    rows, faults, protocols = {}, {}, {}
    stored = read_rows(out / ROWS)
    for key, entry in known.items():
        kept = {row.id: row for row in reversed(stored.get(key, []))}
        rows[key] = [row for row in stored.get(key, []) if kept[row.id] is row]
        faults[key] = dict(entry["faults"])
        twice = len(stored.get(key, [])) - len(rows[key])
        if twice:
            faults[key]["row of an id that came before"] = twice
        protocol = PROTOCOLS.get(entry["name"])(**{**entry["settings"], "folder": Path(entry["settings"]["folder"])})
        kind, number = split(key.variant)
        protocols[key.protocol, key.variant] = Changed(protocol, kind, number) if kind in CHANGES else protocol
        if not rows[key]:
            raise CheckpointError(
                f"{out / ROWS} has no rows of {key.protocol}", why="they were taken out", fix="evaluate again"
            )
    unknown = sum(len(group) for key, group in stored.items() if key not in known)
    return Done(rows, faults, protocols), content | {"unknown_rows": unknown}


def described(protocol: Protocol) -> dict:
    """A protocol's registered name and its settings, as JSON holds them; of one on changed pictures those of itself."""
    protocol = protocol.inner if isinstance(protocol, Changed) else protocol
    settings = {
        f.name: getattr(protocol, f.name) for f in dataclasses.fields(protocol) if f.init and f.name != "faults"
    }
    settings["folder"] = str(Path(settings["folder"]).resolve())
    return {"name": protocol.name, "settings": json.loads(json.dumps(settings, default=str))}


def processor_digest(processor: Any) -> str:
    """sha256 of how a processor words prompts, cuts them into tokens and prepares pictures."""
    tokenizer = processor.tokenizer
    words = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    return sha256([getattr(processor, "chat_template", None), processor.image_processor.to_json_string(), words])


def settings_digest(model: Any) -> str:
    """sha256 of what decides, beside its weights, about a model's answers: configs of base, adapters and generation."""
    configs = [model.config, *getattr(model, "peft_config", {}).values(), getattr(model, "generation_config", None)]
    told = [config.to_dict() for config in configs if config is not None]
    # Where a thing was loaded from, and by which version it was written, changes no answer.
    named = ("_name_or_path", "base_model_name_or_path", "transformers_version", "peft_version")
    return sha256([{name: value for name, value in each.items() if name not in named} for each in told])


def sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


class Fingerprint:
    """What the answers in a folder were given to and by; each part is written before the answers that rest on it."""

    def __init__(self, path: Path):
        self._path = path
        self._known: dict[str, dict] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def agree(self, part: str, now: dict[str, Any]) -> None:
        """Notes `now`, or raises ConfigError when something else was noted for this part."""
        now = json.loads(json.dumps(now, default=str))
        before = self._known.setdefault(part, now)
        if before == now:
            write_json(self._path, self._known)
            return
        names = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
        said = "; ".join(f"{name} was {short(before.get(name))}, is {short(now.get(name))}" for name in names)
        raise ConfigError(
            f"{self._path.parent} holds answers under another {part}",
            why=said,
            fix="--restart throws them away; or choose another --out",
        )


def short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@contextmanager
def owned(out: Path) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InUseError(
            f"another process is evaluating into {out}",
            why="two would answer the same questions and write over each other",
            fix="wait for it, or choose another --out",
        ) from None
    try:
        yield
    finally:
        lock.release()
