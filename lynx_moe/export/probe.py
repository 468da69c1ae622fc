"""The spatial probe: does the exported model point where the live one does, on scenes that nobody has trained on?

synth draws the scenes, with a seed of their own and in a process of its own; they travel with the export, so that a
later verification asks the very same pictures. A model is asked through tensors in a file, by a process that need not
know this library.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

import lynx_moe
from lynx_moe.data import Record, SampleBuilder, load_records
from lynx_moe.data.collate import pad_id
from lynx_moe.data.dataset import askable
from lynx_moe.errors import ExportError
from lynx_moe.evaluation import answer_ends, longest_answer, prompt_batches, score, spoken
from lynx_moe.export import fresh
from lynx_moe.families.dialects import Dialect

PROBE = "lynx_probe.json"
SCENES, SEED = 20, 20_261_123
BATCH = 10


def drawn_scenes() -> list[Record]:
    """One question for one thing in each of `SCENES` rendered pictures, the same on every machine.

    Raises:
        ExportError: synth failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        # Some pictures allow no such question, so a few more are drawn than are asked about.
        asked = ("source=rendered", "task=find_one", f"size={2 * SCENES}", f"seed={SEED}", "split=probe")
        beside = str(Path(lynx_moe.__file__).resolve().parents[1])  # a checkout that was never installed works too
        path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), beside) if p)
        command = [sys.executable, "-m", "synth", *asked, f"out={folder}"]
        run = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
        if run.returncode:
            raise ExportError(
                "no scenes for the spatial probe",
                why=run.stderr.strip()[-500:] or f"synth ended with status {run.returncode}",
                fix=f"run it alone: python {' '.join(command[1:-1])} out=FOLDER; or export without the probe",
            )
        records = load_records(folder, "probe")
        chosen = [records[group[0]] for group in records.by_picture()][:SCENES]
        return [_record(_row(record)) for record in chosen]


class Asked:
    """Records as model inputs in a file, and what a model wrote to them as texts.

    Args:
        processor: the base's.
        dialect: how the model writes boxes.
        sets: records by name of the set; those whose question shows what the processor crops away are left out.
        ends: tokens that end an answer.
    """

    def __init__(self, processor, dialect: Dialect, sets: dict[str, Sequence[Record]], ends: Sequence[int]):
        builder = SampleBuilder(processor, dialect)
        self.dialect, self.tokenizer, self.ends = dialect, builder.tokenizer, list(ends)
        self.sets = {name: [r for r in records if askable(r, builder)] for name, records in sets.items()}
        self.batches: dict[str, dict[str, torch.Tensor]] = {}
        self.positions: dict[str, list[int]] = {}
        for name, records in self.sets.items():
            for k, (chosen, batch) in enumerate(prompt_batches(builder, records, BATCH)):
                self.batches[f"{name}/{k}"], self.positions[f"{name}/{k}"] = dict(batch), chosen
        longest = max((longest_answer(builder, records) for records in self.sets.values()), default=1)
        self.how = {"max_new_tokens": longest, "pad_token_id": pad_id(processor), "eos_token_id": self.ends}

    def write(self, path: Path) -> Path:
        tensors = {f"{key}|{name}": v.contiguous() for key, batch in self.batches.items() for name, v in batch.items()}
        save_file(tensors, path, metadata={"how": json.dumps(self.how)})
        return path

    def ask(self, model, name: str) -> list[str]:
        """A model's texts to one set, in this process and in eval mode."""
        batches = {key: batch for key, batch in self.batches.items() if key.startswith(f"{name}/")}
        return self.texts(fresh.written(model, batches, self.how))[name]

    def texts(self, answers: dict[str, list[list[int]]]) -> dict[str, list[str]]:
        """Texts by set, in the order of its records, from tokens by batch."""
        found = {name: [""] * len(records) for name, records in self.sets.items()}
        for key, rows in answers.items():
            for place, ids in zip(self.positions[key], rows, strict=True):
                found[key.rpartition("/")[0]][place] = spoken(ids, self.ends, self.tokenizer, self.dialect.marks)[0]
        return found

    def score(self, name: str, texts: Sequence[str]) -> dict:
        """What `evaluate` says of these answers."""
        return score(self.sets[name], texts, self.dialect)


def write(folder: Path, records: Sequence[Record], texts: Sequence[str]) -> None:
    """Keep the scenes and the live model's answers in an export."""
    rows = [_row(record) | {"live": text} for record, text in zip(records, texts, strict=True)]
    content = {"seed": SEED, "scenes": rows}
    (folder / PROBE).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read(folder: Path) -> tuple[list[Record], list[str]]:
    """The scenes of an export and the live model's answers; both empty when it was made without them."""
    if not (folder / PROBE).is_file():
        return [], []
    rows = json.loads((folder / PROBE).read_text(encoding="utf-8"))["scenes"]
    return [_record(row) for row in rows], [row["live"] for row in rows]


def compared(asked: Asked, live: Sequence[str], texts: Sequence[str]) -> dict:
    """The exported model's boxes beside the live one's.

    Returns:
        `n`; `same_boxes` and `same_text`, how many scenes; `acc50` and `live_acc50`; `scenes`, with every box.
    """
    before, after = (asked.score("probe", of) for of in (live, texts))
    scenes = [
        {
            "question": b["question"],
            "true_boxes": b["true_boxes"],
            "live": b["boxes"],
            "exported": a["boxes"],
            "same_text": b["answer"] == a["answer"],
        }
        for b, a in zip(before["samples"], after["samples"], strict=True)
    ]
    return {
        "n": len(scenes),
        "same_boxes": sum(scene["live"] == scene["exported"] for scene in scenes),
        "same_text": sum(scene["same_text"] for scene in scenes),
        "acc50": (after["grounding"] or {}).get("acc50"),
        "live_acc50": (before["grounding"] or {}).get("acc50"),
        "scenes": scenes,
    }


def ends_of(model, processor) -> list[int]:
    """Tokens that end an answer; `model` needs a `generation_config` only."""
    return answer_ends(model, processor.tokenizer)


def _row(record: Record) -> dict:
    with BytesIO() as file:
        record.image().save(file, format="PNG")
        picture = base64.b64encode(file.getvalue()).decode()
    return {
        "id": record.id,
        "task": record.task,
        "question": record.question,
        "answer": record.answer,
        "phrase": record.phrase,
        "boxes": [list(box) for box in record.boxes],
        "size": list(record.size),
        "licence": record.licence,
        "png": picture,
    }


def _record(row: dict) -> Record:
    return Record(
        id=row["id"],
        image_id=row["id"],
        question=row["question"],
        answer=row["answer"],
        kind="grounding",
        task=row["task"],
        boxes=tuple(tuple(box) for box in row["boxes"]),
        phrase=row["phrase"],
        source="rendered",
        split="probe",
        licence=row["licence"],
        size=tuple(row["size"]),
        load=partial(_opened, row["png"]),
    )


def _opened(png: str) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(png)))
