"""Florence-2's boxes and outlines: `cat<loc_52><loc_333><loc_932><loc_774>`, 1000 bins of each side.

Source: transformers, `models/florence2/processing_florence2.py` (`Florence2PostProcessor`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from lynx_moe.errors import DialectError
from lynx_moe.families.dialects.base import DIALECTS, Dialect, Parsed
from lynx_moe.families.dialects.geometry import Size
from lynx_moe.families.dialects.grammar import Grammar, derive
from lynx_moe.families.dialects.location import add_box, in_pixels, share_of, shares_of, written_label
from lynx_moe.families.dialects.outlined import seen_corners, seen_pixels
from lynx_moe.grounding import Mask
from lynx_moe.grounding.outlines import outlines

BINS = 1000
LOC = re.compile(r"<loc_([0-9]{1,6})>")
TOKEN = re.compile(r"<poly>|</poly>|<sep>|(?:<loc_[0-9]{1,6}>)+")
FORBIDDEN = "<>"


@DIALECTS.register("florence2")
class Florence2Dialect(Dialect):
    """Bins of what the model sees: the bin that a coordinate lies in is written, its centre is read.

    A box within one bin is read as that whole bin, where transformers' parser gives it no area. A name
    touches its box (`cat<loc_..`); behind a space (`at <loc_..`) a box stands in a sentence and has none. Between
    `<poly>` and `</poly>` each run of at least three points is an outline, several divided by `<sep>`. Other runs are
    boxes, four numbers each: the eight of a text region and an outline without `<poly>` look the same, and can be told
    from boxes only by what was asked.

    >>> Florence2Dialect().encode((0, 25, 100, 50), (100, 100))
    '<loc_0><loc_250><loc_999><loc_500>'
    """

    name = "florence2"
    families = ("florence2",)
    marks = (re.compile(r"<loc_[0-9]{1,3}>|</?poly>|<sep>"),)
    quantum = 1 / BINS
    writes_outlines = True
    coordinates = re.compile(r"(?:<loc_[0-9]{1,6}>){4}")

    def encode(self, box: Iterable[float], size: Size) -> str:
        shares = shares_of(self, box, size)
        return written_label(box, FORBIDDEN, self) + _spelled(shares)

    def encode_point(self, point: Iterable[float], size: Size) -> str:
        """Two tokens, x before y, as in the family's outlines; by themselves they are our choice."""
        return _spelled(share_of(self, self.seen_point(point, size), size))

    def encode_polygon(self, polygon: Sequence[Iterable[float]], size: Size) -> str:
        if len(polygon) < 3:
            raise DialectError(
                f"{len(polygon)} points are no outline", why="an outline has at least three", fix="mend the record"
            )
        return f"<poly>{self._corners(polygon, size)}</poly>"

    def _corners(self, polygon: Iterable[Iterable[float]], size: Size) -> str:
        return "".join(_spelled(share_of(self, self.seen_point(point, size), size)) for point in polygon)

    def _outlined(self, mask: Mask, size: Size) -> str:
        """All outlines of one mask between one pair of marks, as the family's own answers have them."""
        found = [seen_corners(self, outline, size) for outline in outlines(seen_pixels(self, mask, size))]
        return f"<poly>{'<sep>'.join(self._corners(outline, size) for outline in found)}</poly>"

    def _read(self, text: str, size: Size) -> Parsed:
        parsed = Parsed()
        broken = TOKEN.sub(" ", text).count("<loc_")
        outline: list[list[int]] | None = None  # runs since "<poly>", or None outside of it
        behind_mark = 0
        for token in TOKEN.finditer(text):
            if token[0] == "<poly>":
                broken += outline is not None
                outline = []
            elif token[0] == "</poly>":
                broken += not outline
                broken += sum(not self._add_outline(parsed, run, size) for run in outline or ())
                number = parsed.polygon_masks[-1] + 1 if parsed.polygon_masks else 0  # what one pair of marks holds
                parsed.polygon_masks += [number] * (len(parsed.polygons) - len(parsed.polygon_masks))
                outline = None
            elif token[0] != "<sep>":
                if outline is not None:
                    outline.append([int(number) for number in LOC.findall(token[0])])
                else:
                    before = text[behind_mark : token.start()]
                    name = "" if before.endswith(" ") else before.rpartition(">")[2].strip()
                    broken += self._add_boxes(parsed, token, name, size)
            behind_mark = token.end()
        broken += outline is not None
        if broken:
            parsed.errors["unparseable"] += broken
        return parsed

    def _add_boxes(self, parsed: Parsed, run: re.Match[str], name: str, size: Size) -> bool:
        """Four numbers after four, or two that are a point; whether some are left over."""
        found = list(LOC.finditer(run[0]))
        if len(found) == 2:
            self._add_point(parsed, [int(match[1]) for match in found], size)
            return False
        for k in range(0, len(found) - 3, 4):
            x1, y1, x2, y2 = (int(match[1]) for match in found[k : k + 4])
            if max(x1, y1, x2, y2) >= BINS:
                parsed.errors["out_of_range"] += 1
                continue
            (x1, x2), (y1, y2) = _sides(x1, x2), _sides(y1, y2)
            span = run.start() + found[k].start(), run.start() + found[k + 3].end()
            add_box(parsed, self, (x1, y1, x2, y2), size, name, span)
        return len(found) % 4 > 0

    def _add_point(self, parsed: Parsed, place: list[int], size: Size) -> None:
        if max(place) >= BINS:
            parsed.errors["out_of_range"] += 1
        else:
            parsed.points.append(in_pixels(self, (_centre(place[0]), _centre(place[1])), size))

    def _add_outline(self, parsed: Parsed, run: list[int], size: Size) -> bool:
        """Whether the run is an outline, or one whose numbers are too large; then that is counted."""
        if len(run) < 6 or len(run) % 2:
            return False
        if max(run) >= BINS:
            parsed.errors["out_of_range"] += 1
            return True
        places = (in_pixels(self, (_centre(x), _centre(y)), size) for x, y in zip(run[::2], run[1::2], strict=True))
        parsed.polygons.append([(min(max(x, 0.0), size[0]), min(max(y, 0.0), size[1])) for x, y in places])
        return True

    def _grammar(self, size: Size) -> Grammar:
        # A box may lie within one bin, and an outline is no box.
        return derive(self, size, may_equal=True, skips=("<poly>", "</poly>"))


def _spelled(shares: Iterable[float]) -> str:
    return "".join(f"<loc_{min(max(math.floor(share * BINS), 0), BINS - 1)}>" for share in shares)


def _centre(number: int) -> float:
    return (number + 0.5) / BINS


def _sides(low: int, high: int) -> tuple[float, float]:
    """Where a side begins and ends, as fractions."""
    if low == high:  # all of the bin, for a part of it may lie in the padding; its end belongs to the next one
        return low / BINS, (low + 1 - 1e-9) / BINS
    return _centre(low), _centre(high)
