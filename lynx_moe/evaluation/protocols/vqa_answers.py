"""How VQA's authors compare answers: two normalisers, and the accuracy over ten people's answers."""

from __future__ import annotations

import re
from collections.abc import Sequence

ARTICLES = {"a", "an", "the"}
DIGITS = dict(zip("none zero one two three four five six seven eight nine ten".split(), [0, *range(11)], strict=True))
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"\d,\d")
# As published: the first group was to look behind for a digit, and is written so that it never fails.
PERIOD = re.compile(r"\.(?!\d)")
PERIODS_CUT = 32  # the published call passes re.UNICODE, which is 32, where the number of replacements goes

# Contractions that the authors give their apostrophes back. Of these an answer lacks the only apostrophe, ..
_WHOLE = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's I'm
    I've isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've
    shouldn't somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're
    there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd
    where's where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're
    you've
""".split()
# .. of these one of two.
_TWICE = """
    couldn't've hadn't've he'd've I'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've
    something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll you'd've
""".split()


def _contractions() -> dict[str, str]:
    found = {word.replace("'", ""): word for word in _WHOLE}
    for word in _TWICE:
        first, second, third = word.split("'")
        found |= {f"{first}{second}'{third}": word, f"{first}'{second}{third}": word}
    found |= dict.fromkeys(("ow's'at", "'ows'at", "'ow'sat"), "'ow's'at")
    found |= dict.fromkeys(("yall'd've", "y'alld've", "y'all'dve"), "y'all'd've")
    return found | {"somebody'd": "somebodyd"}  # as published


CONTRACTIONS = _contractions()


def vqa_normalise(answer: str) -> str:
    """An answer as VQA's evaluation code compares it: no punctuation, numbers as digits, no articles, apostrophes back.

    >>> vqa_normalise("The two cats, dont")
    "2 cats don't"
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    in_number = COMMA_IN_NUMBER.search(text) is not None
    stripped = text
    for mark in PUNCTUATION:
        # A mark beside a space goes; one between letters becomes a space, unless a number has a comma somewhere.
        beside_a_space = f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if beside_a_space or in_number else " ")
    words = [str(DIGITS.get(w, w)) for w in PERIOD.sub("", stripped, count=PERIODS_CUT).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def evalai_normalise(answer: str) -> str:
    """An answer as TextVQA's evaluation code (Pythia, then MMF) compares it: in small letters, without commas and
    question marks and with possessives apart, then as VQA's.

    >>> evalai_normalise("The man's hat?"), evalai_normalise("1,000")
    ("man 's hat", '1000')
    """
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return vqa_normalise(text)


def vqa_accuracy(answer: str, truths: Sequence[str]) -> float:
    """Mean over the people, each left out in turn, of min(1, agreeing others / 3) (Antol et al., ICCV 2015).

    Both sides come normalised. 0 without truths; of one person nobody is left to agree with.

    >>> vqa_accuracy("cat", ["cat"] * 3 + ["dog"] * 7)
    0.9
    """
    if not truths:
        return 0.0
    agreeing = sum(truth == answer for truth in truths)
    parts = [min(1.0, (agreeing - (truth == answer)) / 3) for truth in truths]
    return sum(parts) / len(parts)
