"""What is wrong, by kind, with a few examples of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

EXAMPLES = 5
KINDS = {
    "hidden": "records with a box or point that the processor crops away: left out of training",
    "unwritable": "records that the dialect or the chat template cannot write: left out of training",
    "too_long": "records longer than the model's positions, whose answer would be cut: left out of training",
    "picture_token": "records whose text itself holds the picture token: left out of training",
    "half_hidden": "records with a box that the processor crops by more than half: the rest is learned as if whole",
    "outside": "records with a box that reaches more than a pixel out of its picture: it is cut at the edge",
    "empty_answer": "records with an empty answer: nothing but the end of the text is learned",
    "unknown_token": "records whose answer has words that the tokenizer does not know",
    "empty_mask": "records whose answer speaks of a mask without a pixel: learned as such where masks have a word",
    "not_read_back": "records whose target, read back by the dialect, does not give their boxes or masks",
    "duplicate_id": "ids that several records bear",
    "unreadable": "pictures that cannot be read",
    "mask": "samples in which something else is learned than the answer and its end",
    "not_finite": "training steps that gave numbers which are not finite",
}


@dataclass
class Findings:
    """Counts and examples per kind; `checked` records were looked at, of `of`."""

    checked: int = 0
    of: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def note(self, kind: str, record_id: str, what: str = "", count: int = 1) -> None:
        self.counts[kind] += count
        some = self.examples.setdefault(kind, [])
        if len(some) < EXAMPLES:
            some.append(f"{record_id}: {what}" if what else record_id)

    def as_json(self) -> list[dict]:
        return [
            {"kind": kind, "count": count, "what": KINDS[kind], "examples": self.examples[kind]}
            for kind, count in self.counts.most_common()
        ]
