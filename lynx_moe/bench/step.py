"""`lynx-moe bench step`: a whole training step of a base with new experts against PEFT's LoRA of the same size."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from PIL import Image
from torch import Tensor, nn

from lynx_moe.adapter import LynxConfig, lynx_layers, set_gate
from lynx_moe.adapter.attaching import attach_adapter, attach_lora, decoder_linears
from lynx_moe.bench.timing import compare, in_turn, prepared
from lynx_moe.loading import load
from lynx_moe.training.base import choose_precision

POCKET = "pkg://lynx_moe.pocket/weights"
BATCHES = 8  # of different lengths, taken in turn, as batches of records have
SHORTEST, LONGEST = 30, 90  # words of a row, beside its picture


def bench_step(
    path: str = POCKET,
    *,
    layers: Sequence[str] = ("every_other", "upper_half"),
    rows: int = 8,
    repeats: int = 20,
    seconds: float = 30.0,
    precision: str = "auto",
    threads: int | None = None,
) -> dict:
    """Times forward, backward and AdamW with `LynxConfig(layers=...)` and with LoRA on the same batches, in turn.

    LoRA sits on every linear map of every decoder layer, at the rank whose number of parameters is nearest. Each of the
    two has a base of its own in memory.

    Returns:
        "rows", one per choice of layers, with `layers, blocks, trainable, lora_rank, lora_trainable, ratio_to_lora,
        ratio_low, ratio_high` (quartiles), `seconds, lora_seconds, rounds`; "setting", what was measured where.
    """
    with prepared(threads):
        return _measure(path, layers, rows, repeats, seconds, choose_precision(precision))


def _measure(path: str, layers: Sequence[str], rows: int, repeats: int, seconds: float, precision: str) -> dict:
    found = []
    for choice in layers:
        lynx, processor = _lynx(path, choice)
        lora, rank = _lora(path, _trainable(lynx))
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        lynx, lora = lynx.to(device), lora.to(device)
        batches = [batch_of(processor, rows, number, device) for number in range(BATCHES)]
        ways = {"lora": _step(lora, precision), "lynx": _step(lynx, precision)}
        timed = in_turn(
            ways, partial(next, itertools.cycle(batches)), repeats=repeats, seconds=seconds, most=10 * repeats
        )
        timed = compare(timed, to="lora")
        ratio = timed["lynx"].pop("ratio")
        row = {"layers": choice, "blocks": len(lynx_layers(lynx)), "trainable": _trainable(lynx), "lora_rank": rank}
        row |= {"lora_trainable": _trainable(lora), "ratio_to_lora": ratio, **timed["lynx"]}
        row["lora_seconds"] = timed["lora"]["seconds"]
        found.append(row)
        print(
            f"layers={choice}: {row['trainable']:,} parameters, {row['seconds']:.3f} s a step; LoRA of rank {rank} "
            f"({row['lora_trainable']:,}) {row['lora_seconds']:.3f} s; ratio {ratio:.3f} "
            f"(quartiles {row['ratio_low']:.3f} to {row['ratio_high']:.3f}, {row['rounds']} rounds)",
            file=sys.stderr,
        )
    tokens = [int(batch["input_ids"].numel()) for batch in batches]
    setting = {"base": path, "device": str(device), "threads": torch.get_num_threads(), "precision": precision}
    setting |= {"tokens_per_step": [min(tokens), max(tokens)], "torch": torch.__version__}
    return {"ok": True, "rows": found, "setting": setting}


def _lynx(path: str, choice: str) -> tuple[nn.Module, object]:
    loaded = load(path, dtype="float32")
    return attach_adapter(loaded.model, LynxConfig(layers=choice)).train(), loaded.processor


def _lora(path: str, parameters: int) -> tuple[nn.Module, int]:
    base = load(path, dtype="float32").model
    linear = [base.get_submodule(name) for name in decoder_linears(base)]
    rank = max(1, round(parameters / sum(m.in_features + m.out_features for m in linear)))
    return attach_lora(base, rank).train(), rank


def _trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def batch_of(processor, rows: int, number: int, device: torch.device) -> dict[str, Tensor]:
    """Rows of a picture and words, at random; everything but padding is an answer."""
    drawn = random.Random(number)
    words = "where is the red square beside a large green circle and under two small blue rings".split()
    longest = drawn.randint(SHORTEST, LONGEST)
    texts, pictures = [], []
    for _ in range(rows):
        said = " ".join(drawn.choices(words, k=drawn.randint(longest * 3 // 4, longest)))
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": said}]}]
        texts.append(processor.apply_chat_template(turn, add_generation_prompt=False))
        pictures.append([Image.effect_noise((128, 128), 64).convert("RGB")])
    batch = processor(images=pictures, text=texts, padding=True, add_special_tokens=False, return_tensors="pt")
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return {name: value.to(device) for name, value in batch.items()}


def _step(model: nn.Module, precision: str) -> Callable[[dict], None]:
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    gated = bool(lynx_layers(model))
    type_of = {"bf16": torch.bfloat16, "fp16": torch.float16}

    def run(batch: dict[str, Tensor]) -> None:
        cast = torch.autocast(batch["input_ids"].device.type, type_of.get(precision), enabled=precision in type_of)
        with set_gate(model, True) if gated else nullcontext(), cast:
            model(**batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return run
