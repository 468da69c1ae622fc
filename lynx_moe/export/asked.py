"""What the live model answers through the heads that its answers need, saved to compare any later reload with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from lynx_moe.adapter import set_gate
from lynx_moe.data import SampleBuilder
from lynx_moe.errors import ExportError
from lynx_moe.evaluation import generate_answers
from lynx_moe.export.fresh import ASKED, asked_again
from lynx_moe.export.reference import drawn_picture
from lynx_moe.families.dialects import Dialect
from lynx_moe.grounding import Mask
from lynx_moe.grounding.grounder import asked as record_of
from lynx_moe.objectives import Objective

MASK_QUESTION = "Segment the red square."


def live_ask(model, processor, dialect: Dialect) -> Callable[..., tuple[str, list[np.ndarray | None]]]:
    """A live model as the `ask` of an export: text and masks to picture, question and regions."""
    builder = SampleBuilder(processor, dialect)

    def ask(image: Image.Image, question: str, regions: Sequence[Any], **how) -> tuple[str, list[np.ndarray | None]]:
        shown = [Mask.of_array(np.asarray(r)) if np.ndim(r) == 2 else tuple(r) for r in regions]
        record = record_of(image, question, shown)
        answer = generate_answers(model, builder, [record], progress=False, **how)[0]
        return answer.text, [None if mask is None else mask.array() for mask in answer.masks]

    return ask


def questions(
    processor, dialect: Dialect, heads: Mapping[str, Objective], new_tokens: int
) -> dict[str, dict[str, Any]]:
    """A question about `drawn_picture` for each head, by case; a region of None is to be a mask.

    An untrained head says no mask's word by itself, so those are dictated: what is compared is then always something.
    """
    asked = {}
    if "masks" in heads:
        tokenizer, words = processor.tokenizer, f"{dialect.mask_word} {dialect.mask_word}"
        ids = [*tokenizer(words, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        asked["asked: masks"] = {"question": MASK_QUESTION, "regions": [], "ids": ids, "new_tokens": len(ids)}
    if "prompts" in heads:
        regions = [None, [40, 60, 90, 110], [112.5, 84.5]][: heads["prompts"].settings["count"]]
        question = f"What is at {', '.join(f'{{region:{k}}}' for k in range(len(regions)))}?"
        asked["asked: regions"] = {"question": question, "regions": regions, "ids": [], "new_tokens": new_tokens}
    return asked


def record_asked(
    peft_model, processor, dialect: Dialect, heads: Mapping[str, Objective], folder: Path, new_tokens: int
) -> None:
    """Asks the live model a question for each of its heads, with its gate open, and keeps the answers in `folder`.

    Raises:
        ExportError: a mask's word is put into its mouth, and it draws none.
    """
    asked, tensors = questions(processor, dialect, heads, new_tokens), {}
    ask, image = live_ask(peft_model, processor, dialect), drawn_picture()
    spot = torch.zeros(image.height, image.width, dtype=torch.bool)
    spot[30:90, 130:190] = True
    for case, question in asked.items():
        regions = [spot if region is None else region for region in question["regions"]]
        with set_gate(peft_model, True):
            text, masks, logits = asked_again(ask, {**question, "image": image, "regions": regions})
        if question["ids"] and not len(masks):
            raise ExportError(
                f"the model draws no mask where it is made to say {dialect.mask_word!r}",
                why=f"its tokenizer reads the word's tokens back as {text!r}",
                fix="train with a word that the tokenizer can spell (objective.masks.word), or export without heads",
            )
        question["text"] = text
        kept = {"picture": torch.from_numpy(np.array(image)), "region": spot, "masks": masks, "logits": logits}
        tensors |= {f"{case}|{name}": value for name, value in kept.items()}
    # Cases share what they are asked about, and a file of tensors takes none twice.
    tensors = {name: value.clone() for name, value in tensors.items()}
    save_file(tensors, folder / ASKED, metadata={"asked": json.dumps(asked)})
