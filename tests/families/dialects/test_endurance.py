"""A million answers nobody would write on purpose: no exception, no box outside of the picture."""

import random

import pytest

from lynx_moe.errors import DialectError
from lynx_moe.families.dialects import DIALECTS
from lynx_moe.families.dialects.base import ERROR_KINDS
from lynx_moe.grounding import Box

ANSWERS = 1_000_000
PIECES = [
    "[", "]", "{", "}", "(", ")", "<", ">", "|", ",", ";", ":", '"', "\\", "/", ".", "-", "+", " ", "\n", "\t", "\0",
    "e9", "nan", "Infinity", "null", "1e309", "0x1F", "\u0663\u0664", "\uff11\uff12", "½", "\U0001d7d9", "é", "\u202e",
    "\ud800", "0.5", "1000", "99999999999", "9" * 400, "[" * 50, "{" * 50, '{"bbox_2d": [', '"label": "', "<ref>",
    "</ref>", "<box>", "</box>", "<quad>", "<|det|>", "<|/det|>", "<|box_start|>", "<|begin_of_box|>", "Step 2: ",
    "(1,2),(3,4)", "[[", "]]", "```json\n",
]  # fmt: skip


def true_answer(draw: random.Random, dialect, size) -> str:
    """A sentence with one to four places, as the dialect itself writes them."""
    words = []
    for _ in range(draw.randint(1, 4)):
        x1, y1 = draw.random() * size[0] * 0.9, draw.random() * size[1] * 0.9
        box = Box(x1, y1, x1 + draw.random() * (size[0] - x1), y1 + draw.random() * (size[1] - y1), draw.choice(PIECES))
        try:
            words.append(dialect.encode(box, size) if draw.random() < 0.8 else dialect.encode_point((x1, y1), size))
        except DialectError:  # a dialect of points only, or of boxes only
            words.append("nothing")
        words.append(draw.choice([" and ", ", ", "", ". "]))
    return "".join(words)


def spoilt(draw: random.Random, text: str) -> str:
    """The text with a few places cut, doubled, turned round or replaced; or cut off; or something else entirely."""
    if draw.random() < 0.05:
        return "".join(draw.choices(PIECES, k=draw.randint(0, 40)))
    for _ in range(draw.randint(0, 4)):
        start = draw.randint(0, len(text))
        end = min(len(text), start + draw.randint(0, 8))
        middle = draw.choice(["", draw.choice(PIECES), text[start:end] * 2, text[start:end][::-1]])
        text = text[:start] + middle + text[end:]
    return text[: draw.randint(0, len(text))] if draw.random() < 0.3 else text


@pytest.mark.slow
def test_a_million_spoilt_answers_never_raise_and_never_leave_the_picture():
    draw = random.Random(0)
    dialects = [DIALECTS.get(name)() for name in DIALECTS]
    read = dict.fromkeys((dialect.name for dialect in dialects), 0)
    for _ in range(ANSWERS // len(dialects) + 1):
        size = draw.choice([(640, 480), (1, 1), (3, 4000), (1024, 1024)])
        for dialect in dialects:
            parsed = dialect.decode(spoilt(draw, true_answer(draw, dialect, size)), size)
            assert set(parsed.errors) <= set(ERROR_KINDS) and len(parsed.boxes) == len(parsed.spans)
            for box in parsed.boxes:
                assert 0 <= box.x1 < box.x2 <= size[0] and 0 <= box.y1 < box.y2 <= size[1]
            for x, y in (*parsed.points, *(corner for polygon in parsed.polygons for corner in polygon)):
                assert 0 <= x <= size[0] and 0 <= y <= size[1]
            read[dialect.name] += len(parsed.boxes)
    # Not all was noise: every dialect that writes boxes still read very many of them.
    assert all(count == 0 or count > ANSWERS / len(dialects) / 4 for count in read.values()) and sum(read.values()) > 0
