"""PaliGemma's boxes: four of 1024 location tokens, `<loc0256><loc0000><loc0512><loc1023> cat`.

Source: google-research/big_vision, `pp/proj/paligemma/segmentation.py` (writes y1, x1, y2, x2 as `round(share * 1023)`)
and `evaluators/proj/paligemma/transfers/segmentation.py` (reads them as `number / 1023`, and asks for y2 > y1 and
x2 > x1). Demonstrations in circulation divide by 1024 instead, which moves a box by at most a thousandth of the side.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from lynx_moe.families.dialects.base import DIALECTS, Dialect, Parsed
from lynx_moe.families.dialects.geometry import Size
from lynx_moe.families.dialects.location import add_box, in_pixels, share_of, shares_of, written_label
from lynx_moe.families.dialects.numbers import snap

LAST = 1023
MARK = len("<loc0000>")
CODES, LAST_CODE = 16, 127  # tokens of one mask, and the largest
RUN = re.compile(r"(?:<loc[0-9]{4}>)+")
CODE_RUN = re.compile(r"\s?((?:<seg[0-9]{3}>)+)")


@DIALECTS.register("paligemma")
class PaliGemmaDialect(Dialect):
    """Location tokens in the order y1, x1, y2, x2, of what the model sees.

    An answer may be a list, `<loc..>.. cat ; <loc..>.. dog`; a name is read where the answer, or an entry behind ";",
    begins with its box, so that a sentence that goes on behind a box is no name. A mask follows its box as 16 tokens
    `<seg000>` to `<seg127>`; they come back as numbers in `Parsed.mask_codes`. To make a mask of them takes a VQ-VAE,
    whose weights transformers does not have (big_vision's `vae-oid.npz`).

    >>> PaliGemmaDialect().encode((0, 25, 100, 50), (100, 100))
    '<loc0256><loc0000><loc0512><loc1023>'
    """

    name = "paligemma"
    families = ("paligemma",)
    marks = (re.compile(r"<loc[0-9]{4}>"), re.compile(r"<seg[0-9]{3}>"))
    quantum = 1 / LAST
    coordinates = re.compile(r"(?:<loc[0-9]{4}>){4}")

    def encode(self, box: Iterable[float], size: Size) -> str:
        x1, y1, x2, y2 = shares_of(self, box, size)
        (x1, x2), (y1, y2) = snap(x1 * LAST, x2 * LAST, LAST), snap(y1 * LAST, y2 * LAST, LAST)
        label = written_label(box, "<>", self)
        return "".join(f"<loc{value:04}>" for value in (y1, x1, y2, x2)) + (f" {label}" if label else "")

    def encode_point(self, point: Iterable[float], size: Size) -> str:
        """Two tokens, y before x. The family was not taught points; this is our choice."""
        x, y = share_of(self, self.seen_point(point, size), size)
        return f"<loc{round(y * LAST):04}><loc{round(x * LAST):04}>"

    def _read(self, text: str, size: Size) -> Parsed:
        parsed = Parsed()
        broken = RUN.sub(" ", text).count("<loc")
        for run in RUN.finditer(text):
            numbers = [int(number) for number in re.findall("[0-9]{4}", run[0])]
            if len(numbers) == 2 and max(numbers) > LAST:
                parsed.errors["out_of_range"] += 1
                continue
            if len(numbers) == 2:
                parsed.points.append(in_pixels(self, (numbers[1] / LAST, numbers[0] / LAST), size))
                continue
            broken += len(numbers) % 4 > 0
            behind, codes = CODE_RUN.match(text, run.end()), ()
            if behind:
                codes = tuple(map(int, re.findall("[0-9]{3}", behind[1])))
                if len(codes) != CODES or max(codes) > LAST_CODE:
                    broken, codes = broken + 1, ()
            for k in range(0, len(numbers) - 3, 4):
                four = numbers[k : k + 4]
                if max(four) > LAST:
                    parsed.errors["out_of_range"] += 1
                    continue
                y1, x1, y2, x2 = (number / LAST for number in four)
                # Name and mask are of the box that they stand behind.
                is_last = k + 4 == len(numbers)
                name = _name(text, run.start(), behind.end() if behind else run.end()) if is_last else ""
                span = run.start() + MARK * k, run.start() + MARK * (k + 4)
                if add_box(parsed, self, (x1, y1, x2, y2), size, name, span):
                    parsed.mask_codes.append(codes if is_last else ())
        if broken:
            parsed.errors["unparseable"] += broken
        return parsed


def _name(text: str, start: int, end: int) -> str:
    """The name behind a box that is written from `start` to `end`, "" if the text goes on as a sentence."""
    if start and text[max(0, start - 2) : start].rstrip(" ")[-1:] not in (";", "\n"):
        return ""
    stop = text.find("<", end)
    if not text.startswith(" ", end):
        return ""
    line, newline, _ = text[end : stop if stop >= 0 else len(text)].partition("\n")
    name = line.strip()
    if stop < 0 or newline:
        return name.removesuffix(" ;")
    # What stands between two boxes without ";" belongs to neither.
    return name[:-1].rstrip() if name.endswith(";") and text.startswith("<loc", stop) else ""
