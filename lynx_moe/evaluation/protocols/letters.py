"""Which option an answer chooses, by the rules of the published evaluations; no model is asked to judge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

LETTERS = "ABCDE"
ALONE = 3  # words of an answer beyond which an "A" may be the article
# Around a letter that stands as a word: VLMEvalKit's, in its order.
AROUND = (
    ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."),
    (":", ""), (":", ","), (":", "."), (":", ")"), (":", ")."),
)  # fmt: skip


def mmbench_letter(answer: str, options: Mapping[str, str], letters: Iterable[str] = LETTERS) -> str | None:
    """MMBench's (VLMEvalKit's) rules: one letter as a word, bare or in the usual punctuation; else the one option whose
    words are in the answer. None where they do not tell; there MMBench asks ChatGPT, and we count it as wrong.
    `letters` are those that can be meant: MMBench's code takes five, however many options there are.

    >>> [mmbench_letter(said, {"A": "a cat", "B": "a dog"}) for said in ("B. a dog", "It is a cat", "a cow")]
    ['B', 'A', None]
    """
    words = answer.split()
    for before, behind in (("", ""), *AROUND):
        found = [letter for letter in letters if f"{before}{letter}{behind}" in words]
        bare = not before and not behind
        if len(found) == 1 and not (bare and "A" in words and len(words) > ALONE):
            return found[0]
    said = [letter for letter, text in options.items() if text.lower() in answer.lower()]
    return said[0] if len(said) == 1 else None


def scienceqa_letter(answer: str) -> str | None:
    """LLaVA's rules for ScienceQA: the letter alone, "B. ..." at the beginning, or "The answer is B".

    >>> [scienceqa_letter(said) for said in ("B", "B. iron", "The answer is C.", "iron")]
    ['B', 'B', 'C', None]
    """
    text = answer.replace("\n", ". ")
    if text.strip() in tuple(LETTERS):
        return text.strip()
    if text[:1] in tuple(LETTERS) and text[1:3] == ". ":
        return text[0]
    # With the period first, wherever it stands: a model may speak of other options before.
    found = re.search(r"The answer is ([A-E])\.", text) or re.search(r"The answer is ([A-E])", text)
    return found[1] if found else None
