"""Measure the pocket base on held-out pictures and write its card: `python -m lynx_moe.pocket.card`."""

from __future__ import annotations

import argparse
import os
from collections import Counter, defaultdict
from pathlib import Path

from transformers import AutoModelForImageTextToText, AutoProcessor

from lynx_moe.data import RecordSet, load_records
from lynx_moe.evaluation import evaluate
from lynx_moe.evaluation.retention import normalise
from lynx_moe.families.dialects import get_dialect
from lynx_moe.pocket import path

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [llava, vision-language, tiny]
---

# pocket: a small base to try adapters on

A stock `LlavaForConditionalGeneration` of {parameters:.1f} million parameters (SigLIP-style ViT of 4 layers, Llama
decoder of 5 layers, width 160, pictures of 128 x 128 pixels in 64 patches), trained from scratch on pictures that
`synth` draws. It names, counts, compares, measures and describes in short English answers. **It has never seen a
box**: no coordinate of a picture was ever in its training text. Of place it was taught words ("upper left"), of
extent a thing's width or height in percent of the picture; while it was trained, throw-away heads on its visual tokens
told a patch's own place and the extent of the thing it shows. It is no general assistant, and knows only what `synth`
draws: the things of `synth/assets`, a few shapes and colours.

## Measured

Greedy answers to {n} questions about {pictures} held-out pictures, exact match after normalising case and articles.
*Blind* is the best constant answer per question type, chosen with knowledge of these very answers: an upper bound on
what is right without looking.

| question type | questions | accuracy | blind |
| --- | ---: | ---: | ---: |
{rows}
| **all** | {n} | **{accuracy:.1%}** | {blind:.1%} |

## Made by

```bash
python -m lynx_moe.pocket --work outputs/pocket     # pictures, then training: hours; resumes
python -m lynx_moe.pocket.card                      # this card
```

Weights, tokenizer and processor: Apache-2.0. The pictures it was trained on: `synth/assets/NOTICE.md`.
"""


def blind_answers(records: RecordSet) -> dict[str, float]:
    """Per task, the share of the records that the most common answer alone would get right."""
    answers: dict[str, Counter] = defaultdict(Counter)
    for k in range(len(records)):
        record = records[k]
        answers[record.task][normalise(record.answer)] += 1
    return {task: counts.most_common(1)[0][1] / counts.total() for task, counts in answers.items()}


def measure(folder: Path, records: RecordSet) -> dict:
    """Accuracy of the model in ``folder`` and of blind guessing on understanding ``records``, overall and by task."""
    model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").float().eval()
    processor = AutoProcessor.from_pretrained(folder)
    found = evaluate(model, processor, records, get_dialect("percent", processor))["retention"]
    blind = blind_answers(records)
    by_task = {task: {**row, "blind": blind[task]} for task, row in found["by_task"].items()}
    overall = sum(row["n"] * row["blind"] for row in by_task.values()) / found["n"]
    size = sum(p.numel() for p in model.parameters())
    return {"n": found["n"], "accuracy": found["accuracy"], "blind": overall, "by_task": by_task, "parameters": size}


def write_card(folder: Path, measured: dict, pictures: int) -> Path:
    """Write README.md into ``folder``, aside and renamed."""
    rows = "\n".join(
        f"| {task} | {row['n']} | {row['accuracy']:.1%} | {row['blind']:.1%} |"
        for task, row in sorted(measured["by_task"].items())
    )
    text = _CARD.format(
        parameters=measured["parameters"] / 1e6, n=measured["n"], pictures=pictures, rows=rows,
        accuracy=measured["accuracy"], blind=measured["blind"],
    )  # fmt: skip
    target = folder / "README.md"
    aside = folder / "README.md.aside"
    aside.write_text(text)
    os.replace(aside, target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=path())
    parser.add_argument("--data", type=Path, default=Path("outputs/pocket/pictures"))
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, default=4000)
    options = parser.parse_args()
    records = load_records(options.data, options.split, kinds=["understanding"], limit=options.limit)
    measured = measure(options.model, records)
    pictures = len({records[k].image_id for k in range(len(records))} - {""})
    print(write_card(options.model, measured, pictures).read_text())


if __name__ == "__main__":
    main()
