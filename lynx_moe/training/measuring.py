"""A run measures itself: the base's answers and the adapter's, to the same questions, when training is over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import astuple
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock
from torch import nn

from lynx_moe.data import Record, load_records
from lynx_moe.data.dataset import askable
from lynx_moe.errors import RecordError
from lynx_moe.evaluation import compare, evaluate
from lynx_moe.training.card import versions
from lynx_moe.training.method import open_gate
from lynx_moe.training.preparing import Prepared
from lynx_moe.training.settings import Settings
from lynx_moe.whole import write_json


def asked_records(settings: Settings) -> Sequence[Record] | None:
    """The questions that `settings.evaluation` asks for; None when it asks for no measuring.

    Raises:
        RecordError: no such split or task, or no question is left.
    """
    asked = settings.evaluation
    if asked.split is None:
        return None
    records = load_records(settings.data.folder, asked.split, tasks=asked.tasks, limit=asked.limit)
    if not len(records):
        raise RecordError(
            f"no record of split {asked.split!r} to measure on",
            why=f"tasks {asked.tasks or 'all'} of {settings.data.folder}",
            fix="name other evaluation.tasks, or another evaluation.split",
        )
    return records


def measure(settings: Settings, prepared: Prepared, model: nn.Module, records: Sequence[Record]) -> tuple[dict, dict]:
    """What the base (adapter off) and the adapter answer to `records`.

    Every process of a distributed run asks every question, in step with the others: sharded weights need all
    processes in each forward.

    Args:
        model: the trained PEFT model, free of the wrappers of mixed precision and data parallelism.

    Returns:
        For the card: "before" and "after" (numbers of `evaluate`, without answers), "change" (numbers of `compare`),
        "split", "gate" and "n". And every answer: "before" and "after" as `evaluate` gives them.
    """
    asked = settings.evaluation

    def answers() -> dict:
        shown = settings.trainer.progress and PartialState().is_main_process
        dialect = prepared.builder.dialect
        return evaluate(model, prepared.processor, records, dialect, asked.batch_size, progress=shown)

    def base_answers() -> dict:
        with model.disable_adapter():
            return answers()

    if asked.base_answers is None:
        before = base_answers()
    else:
        before = shared(Path(asked.base_answers) / f"{fingerprint(settings, prepared, records)}.json", base_answers)
    with open_gate(model) if asked.gate == "on" else nullcontext():
        after = answers()
    card = {
        "split": asked.split,
        "gate": asked.gate,
        "n": after["n"],
        "before": without(before, "samples"),
        "after": without(after, "samples"),
        "change": without(compare(before, after), "flips"),
    }
    return card, {"before": before, "after": after}


def without(found: dict, name: str) -> dict:
    return {key: value for key, value in found.items() if key != name}


def shared(file: Path, compute) -> dict:
    """What `file` holds; where it is missing or damaged, what `compute()` gives, which is then written there.

    Runs that need the same file at the same time wait for the first of them. All processes of a run call this together.
    """
    here = PartialState()
    with nullcontext() if not here.is_main_process else locked(file):
        found = [read(file) if here.is_main_process else None]
        if here.num_processes > 1:
            broadcast_object_list(found)
        if found[0] is not None:
            return found[0]
        made = compute()
        if here.is_main_process:
            write_json(file, made)
        return made


def locked(file: Path) -> FileLock:
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file.with_suffix(".lock"))


def read(file: Path) -> dict | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and "samples" in found else None


def fingerprint(settings: Settings, prepared: Prepared, records: Sequence[Record]) -> str:
    """sha256 over everything that the base's answers depend on: its bytes, what it is asked, and how it computes."""
    digest = hashlib.sha256()
    model, device = settings.model, next(prepared.model.parameters()).device
    image_processor = getattr(prepared.processor, "image_processor", None)
    how = {
        "base": prepared.base_hash.digest,
        "model": [model.dialect, model.dtype, model.attention],
        "mask_word": prepared.builder.dialect.mask_word,  # answers are read with it, and cut by how long true ones are
        "batch_size": settings.evaluation.batch_size,
        "pictures": image_processor.to_json_string() if image_processor is not None else None,
        "device": device.type,
        "versions": versions(),
    }
    digest.update(json.dumps(how, sort_keys=True).encode())
    seen: set[str] = set()
    # As the base is asked: without what objectives add, or word otherwise.
    plain = prepared.builder.with_targets(())
    records = [record for record in records if askable(record, plain)]
    prompts = plain.prompts(records)
    for record, prompt in zip(records, prompts, strict=True):
        names = [record.image_id or record.id, *(each.image_id for each in record.more)] if record.has_image else []
        # The prompt's ids hold the question, the chat template and the tokenizer.
        words = [record.id, prompt.ids.tolist(), record.answer, record.kind, record.task, record.phrase, record.boxes,
                 [astuple(step) for step in record.steps], record.picture, record.sizes, names,
                 [mask and mask.to_coco() for mask in record.masks]]  # fmt: skip
        digest.update(json.dumps(words).encode())
        for number, name in enumerate(names):
            if name not in seen:
                seen.add(name)
                digest.update(record.image(number).tobytes())
    return digest.hexdigest()[:32]
