"""Training material of the pocket base: shards of synth turned into packed rows of token ids and patch labels."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from lynx_moe.pocket.build import PATCH, SIDE

GRID = SIDE // PATCH
CELLS = 4  # sub-cells of a patch's side whose ink the warm-up predicts, so that features keep where edges run
_MAX_WORDS = 5
_FORM = 1.3  # how many times longer the longer side is where a thing is called wide or tall, as synth has it


@dataclass(slots=True)
class Material:
    """Pictures as uint8 (N, 3, SIDE, SIDE), their patch labels, and the tokenised questions of each picture."""

    pixels: np.ndarray
    words: np.ndarray  # (N, GRID*GRID, _MAX_WORDS) token ids that describe what a patch shows; -1 pads
    ink: np.ndarray  # (N, GRID*GRID, CELLS*CELLS) bool: which sub-cells belong to an object
    extent: np.ndarray  # (N, GRID*GRID, 2) width and height of the patch's object as shares of SIDE; 0 without one
    asked: list[list[tuple[np.ndarray, np.ndarray, int]]]  # per picture: (question ids, answer ids, index in `tasks`)
    games: list[tuple[np.ndarray, np.ndarray]]  # text only
    tasks: dict[str, int] = field(default_factory=dict)  # how many questions about pictures each task has


def texts(folders: list[Path], split: str, limit: int = 400_000) -> list[str]:
    """Questions and answers as the chat template spaces them: what the tokenizer learns from."""
    found: list[str] = []
    for folder in folders:
        for path in sorted((folder / "records").glob(f"{split}-*.parquet")):
            rows = pq.read_table(path, columns=["image_id", "question", "steps", "answer"]).to_pylist()
            leads = ["\n" if r["image_id"] else " " for r in rows]
            found += [f"USER:{s}{r['question']} ASSISTANT: {target(r)}" for s, r in zip(leads, rows, strict=True)]
            if len(found) >= limit:
                return found
    return found


def target(row: dict) -> str:
    """The text the base is taught to answer: numbered steps, if any, the answer being the last."""
    if not row["steps"]:
        return row["answer"]
    said = [*(s["text"] for s in row["steps"]), row["answer"]]
    return " ".join(f"Step {n}: {text}" for n, text in enumerate(said, 1))


def load(folders: list[Path], split: str, tokenizer: PreTrainedTokenizerFast, limit: int | None = None) -> Material:
    """Read shards into memory: about 55 kB a picture."""
    pixels, words, ink, extent, asked, games = [], [], [], [], [], []
    tasks: dict[str, int] = defaultdict(int)
    index: dict[str, int] = {}

    @cache
    def word_ids(word: str) -> list[int]:
        return tokenizer(" " + word)["input_ids"][:2]

    known: dict[str, np.ndarray] = {}  # the same wordings come again and again: tokenised and held once
    for folder in folders:
        for path in sorted((folder / "records").glob(f"{split}-*.parquet")):
            by_picture: dict[str, list] = defaultdict(list)
            rows = pq.read_table(path, columns=["image_id", "question", "steps", "answer", "task"]).to_pylist()
            lead = ["" if r["image_id"] else " " for r in rows]  # after "<image>\n" no space, after "USER:" one
            asks = [s + r["question"] + " ASSISTANT:" for s, r in zip(lead, rows, strict=True)]
            questions = _ids(tokenizer, asks, known)
            answers = _ids(tokenizer, [" " + target(r) + "</s>" for r in rows], known)
            for row, pair in zip(rows, zip(questions, answers, strict=True), strict=True):
                if not row["image_id"]:
                    games.append(pair)
                    continue
                tasks[row["task"]] += 1
                by_picture[row["image_id"]].append((*pair, index.setdefault(row["task"], len(index))))
            pictures = folder / "images" / path.name
            for row in pq.read_table(pictures, columns=["image_id", "image", "objects"]).to_pylist():
                picture = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
                pixels.append(picture.transpose(2, 0, 1))
                labels = patch_labels(row["objects"], word_ids)
                for known_of, found in zip((words, ink, extent), labels, strict=True):
                    known_of.append(found)
                asked.append(by_picture[row["image_id"]])
                if limit and len(pixels) >= limit:
                    break
            if limit and len(pixels) >= limit:
                break
    return Material(
        pixels=_stack(pixels, (3, SIDE, SIDE), np.uint8), words=_stack(words, (GRID**2, _MAX_WORDS), np.int16),
        ink=_stack(ink, (GRID**2, CELLS**2), bool), extent=_stack(extent, (GRID**2, 2), np.float16),
        asked=asked, games=games, tasks=dict(tasks),
    )  # fmt: skip


def _stack(arrays: list[np.ndarray], shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.stack(arrays) if arrays else np.zeros((0, *shape), dtype)


def _ids(tokenizer: PreTrainedTokenizerFast, strings: list[str], known: dict[str, np.ndarray]) -> list[np.ndarray]:
    new = [s for s in dict.fromkeys(strings) if s not in known]
    if new:
        known.update(zip(new, (np.asarray(i, np.int16) for i in tokenizer(new)["input_ids"]), strict=True))
    return [known[s] for s in strings]


def patch_labels(objects: list[dict], word_ids: Callable[[str], list[int]]) -> tuple[np.ndarray, ...]:
    """For every patch: words for the object that covers most of it, its inked sub-cells, that object's extent."""
    words = np.full((GRID * GRID, _MAX_WORDS), -1, np.int16)
    inked = np.zeros((SIDE, SIDE), bool)
    extent = np.zeros((GRID * GRID, 2), np.float16)
    most = np.full(GRID * GRID, 0.2, np.float32)  # a fifth of the patch at least
    for thing in objects:
        runs = thing["mask"]
        mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(SIDE, SIDE)
        inked |= mask
        share = mask.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3)).ravel()
        x1, y1, x2, y2 = thing["box"]
        width, height = x2 - x1, y2 - y1
        form = ["wide" if width > height else "tall"] if max(width, height) > _FORM * min(width, height) else []
        said = [thing["name"], *json.loads(thing["attributes"]).values(), *form]
        ids = [i for w in said for i in word_ids(w)][:_MAX_WORDS]
        here = share > most
        words[here] = -1
        words[np.ix_(here, range(len(ids)))] = ids
        extent[here] = width / SIDE, height / SIDE
        most[here] = share[here]
    cell = PATCH // CELLS
    cells = inked.reshape(GRID, CELLS, cell, GRID, CELLS, cell).mean((2, 5)) > 0.5
    return words, cells.transpose(0, 2, 1, 3).reshape(GRID * GRID, CELLS * CELLS), extent


def pack(prefix: list[int], parts: list[tuple], length: int, pad: int):
    """One row: the shared prefix, then as many question-answer parts as fit, each seeing only the prefix and itself.

    Returns:
        ids (L,), labels (L,), positions (L,) and which part a token belongs to (L,): 0 prefix, 1.. parts, -1 padding.
    """
    ids, labels = np.full(length, pad, np.int64), np.full(length, -100, np.int64)
    positions, owner = np.zeros(length, np.int64), np.full(length, -1, np.int64)
    p = len(prefix)
    ids[:p], positions[:p], owner[:p] = prefix, np.arange(p), 0
    at = p
    for k, (question, answer, *_) in enumerate(parts, 1):
        n = len(question) + len(answer)
        if at + n > length:
            continue
        ids[at : at + n] = np.concatenate([question, answer])
        labels[at + len(question) : at + n] = answer
        positions[at : at + n] = np.arange(p, p + n)
        owner[at : at + n] = k
        at += n
    return ids, labels, positions, owner


def attention_mask(owner_BL: torch.Tensor) -> torch.Tensor:
    """Additive (B, 1, L, L) mask: causal, and only within the prefix and one's own part."""
    length = owner_BL.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = owner_BL[:, :, None] == owner_BL[:, None, :]
    seen = causal & (same | (owner_BL[:, None, :] == 0))
    return torch.zeros(seen.shape).masked_fill(~seen, -1e4)[:, None]
