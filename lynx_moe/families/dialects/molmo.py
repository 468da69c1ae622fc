"""Molmo's points, as tags: `<point x="63.5" y="44.5" alt="the cat">the cat</point>`, and Molmo2's.

Source: what both families write, and the readers that their own evaluation uses. Molmo: `x="63.5" y="44.5"`, or
`x1=".." y1=".." x2=".." ..` in a `<points>` tag, in percent with one decimal (allenai's olmo-eval, `_MOLMO_POINT_RE`).
Molmo2: `<points coords="1 1 073 160 2 173 600">`, the picture's number and then a number, x and y of each point, in
thousandths of three or four digits (the regular expressions of its model card). transformers' processors read neither.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator

from lynx_moe.errors import DialectError
from lynx_moe.families.dialects.base import DIALECTS, Dialect, Parsed
from lynx_moe.families.dialects.geometry import Size
from lynx_moe.families.dialects.grammar import Grammar
from lynx_moe.families.dialects.location import in_pixels, share_of

# A tag never contains "<" or ">", so scanning stops at the next one: linear for any text.
TAG = re.compile(r"<points?\b([^<>]*)(>?)")
TEXT = re.compile(r'\balt="[^"]*"')
PAIR = re.compile(
    r'\bx([0-9]{0,4})=" {0,4}([0-9]{1,6}(?:\.[0-9]{1,6})?) {0,4}"\s{1,4}y\1=" {0,4}([0-9]{1,6}(?:\.[0-9]{1,6})?) {0,4}"'
)
ATTRIBUTE = re.compile(r"\b[xy][0-9]*=")
COORDS = re.compile(r'\bcoords="([^"]*)"')
GROUP = re.compile(r"[0-9.]{1,12}((?: [0-9]{1,6} [0-9]{3,4} [0-9]{3,4})+)")
TRIPLE = re.compile(r"[0-9]+ ([0-9]{3,4}) ([0-9]{3,4})")


class PointTagDialect(Dialect):
    """Points in `Parsed.points`; boxes it has none."""

    writes_boxes = False
    of_picture = True
    quantum = 0.001

    @abstractmethod
    def places(self, attributes: str) -> Iterator[tuple[float, float] | None]:
        """Fractions x, y of the picture for every point of a tag, None for what cannot be read."""

    def encode(self, box: Iterable[float], size: Size) -> str:
        raise self._no_boxes()

    def _grammar(self, size: Size) -> Grammar:
        raise self._no_boxes()

    def _read(self, text: str, size: Size) -> Parsed:
        parsed = Parsed()
        for tag in TAG.finditer(text):
            for share in self.places(TEXT.sub("", tag[1])) if tag[2] else (None,):
                if share is None:
                    parsed.errors["unparseable"] += 1
                    continue
                point = in_pixels(self, share, size)
                if max(share) > 1 or not self.geometry.shows(point, size):
                    parsed.errors["out_of_range"] += 1
                else:
                    parsed.points.append(point)
        return parsed

    def _no_boxes(self) -> DialectError:
        return DialectError(
            f"the dialect {self.name!r} writes no boxes",
            why="the family was taught to point, not to box",
            fix='ask for a point ("Point to the cat.") and take `decode(...).points`; points are written by '
            "`encode_point`, and in questions by {point:k}",
        )


@DIALECTS.register("molmo")
class MolmoDialect(PointTagDialect):
    """Percent of the picture, with one decimal.

    >>> MolmoDialect().encode_point((63.5, 20), (100, 100))
    '<point x="63.5" y="20.0" alt=""></point>'
    """

    name = "molmo"
    families = ("molmo",)

    def encode_point(self, point: Iterable[float], size: Size) -> str:
        x, y = share_of(self, self.seen_point(point, size), size)
        return f'<point x="{x * 100:.1f}" y="{y * 100:.1f}" alt=""></point>'

    def places(self, attributes: str) -> Iterator[tuple[float, float] | None]:
        pairs = list(PAIR.finditer(attributes))
        yield from ((float(pair[2]) / 100, float(pair[3]) / 100) for pair in pairs)
        if not pairs or len(ATTRIBUTE.findall(attributes)) != 2 * len(pairs):
            yield None


@DIALECTS.register("molmo2")
class Molmo2Dialect(PointTagDialect):
    """Thousandths of the picture.

    The first number of a group says which picture its points lie in. All are read in the frame of the one picture
    whose size is given, so of several pictures only answers about that one mean anything.

    >>> Molmo2Dialect().encode_point((63.5, 2), (100, 100))
    '<points coords="1 1 635 020"></points>'
    """

    name = "molmo2"
    families = ("molmo2",)

    def encode_point(self, point: Iterable[float], size: Size) -> str:
        x, y = share_of(self, self.seen_point(point, size), size)
        return f'<points coords="1 1 {round(x * 1000):03} {round(y * 1000):03}"></points>'

    def places(self, attributes: str) -> Iterator[tuple[float, float] | None]:
        found = COORDS.search(attributes)
        for group in re.split("[;\t]", found[1]) if found else ("",):
            whole = GROUP.fullmatch(group)
            if whole is None:
                yield None
                continue
            yield from ((int(triple[1]) / 1000, int(triple[2]) / 1000) for triple in TRIPLE.finditer(whole[1]))
