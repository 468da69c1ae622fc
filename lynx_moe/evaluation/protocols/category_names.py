"""Categories by name: how they are spoken, what else they are called, and which one a free text means.

All of it is our choice: how the paper that scores free-form answers (arXiv 2410.10491) tells which category a word
means was not found. Here a box's label must hold a known name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.metrics.grounded_captions import IRREGULAR

# VOC and LVIS write some names as no reader would.
_SPOKEN = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}
_ALSO = {
    "airplane": ("aeroplane", "plane"),
    "bicycle": ("bike",),
    "cell phone": ("mobile phone", "cellphone"),
    "couch": ("sofa",),
    "motorbike": ("motorcycle",),
    "motorcycle": ("motorbike",),
    "person": ("people", "man", "men", "woman", "women", "boy", "girl", "child", "children"),
    "sofa": ("couch",),
    "tv": ("television",),
    "tv monitor": ("tv", "television", "monitor"),
}
_MORE_GENERAL = {
    "animal": "bear, bird, cat, cow, dog, elephant, giraffe, horse, sheep, zebra",
    "vehicle": "airplane, bicycle, boat, bus, car, motorcycle, motorbike, train, truck",
    "street furniture": "bench, fire hydrant, parking meter, stop sign, traffic light",
    "bag or accessory": "backpack, handbag, suitcase, tie, umbrella",
    "sports equipment": "baseball bat, baseball glove, frisbee, kite, skateboard, skis, snowboard, sports ball,"
    " surfboard, tennis racket",
    "tableware": "bottle, bowl, cup, fork, knife, spoon, wine glass",
    "food": "apple, banana, broccoli, cake, carrot, donut, hot dog, orange, pizza, sandwich",
    "furniture": "bed, chair, couch, dining table, sofa, toilet",
    "plant": "potted plant",
    "electronic device": "cell phone, keyboard, laptop, mouse, remote, tv, tv monitor",
    "household appliance": "hair drier, microwave, oven, refrigerator, sink, toaster",
    "household item": "book, clock, scissors, teddy bear, toothbrush, vase",
    "human being": "person",
}
# The more general name of each of COCO's 80 categories and VOC's 20, by hand.
GENERAL_NAMES = {name: general for general, names in _MORE_GENERAL.items() for name in names.split(", ")}

_PLURALS = {one: many for many, one in IRREGULAR.items()} | {"knife": "knives", "sheep": "sheep"}
_WORD = re.compile(r"[^\W_]+")


def spoken(name: str) -> str:
    """A category as it is asked for.

    >>> spoken("traffic_light"), spoken("diningtable"), spoken("bow_(weapon)")
    ('traffic light', 'dining table', 'bow (weapon)')
    """
    plain = name.strip().replace("_", " ")
    return _SPOKEN.get(plain.lower(), plain)


class CategoryNames:
    """Finds which category a text names.

    Args:
        names: category to its names. Of two categories with one name, the first keeps it.
    """

    def __init__(self, names: Mapping[int, Iterable[str]]):
        self._categories: dict[tuple[str, ...], int] = {}
        for category, own in names.items():
            for name in own:
                for form in _forms(name):
                    self._categories.setdefault(form, category)
        # Names added here never displace those above: another category may bear one of them.
        for category, own in names.items():
            for name in own:
                for other in _ALSO.get(spoken(name).lower(), ()):
                    for form in _forms(other):
                        self._categories.setdefault(form, category)
        self._longest = max((len(form) for form in self._categories), default=0)

    def find(self, text: str) -> int | None:
        """The category of the name that ends last in `text` as whole words, and is the longest of those; or None.

        In English the noun stands last: "a red toy car" is a car.

        >>> CategoryNames({1: ["dog"], 2: ["hot dog"], 3: ["car"]}).find("Two hot dogs near a car seat, and a hot dog")
        2
        >>> CategoryNames({1: ["dog"]}).find("a doghouse") is None
        True
        """
        said = tuple(word.lower() for word in _WORD.findall(text))
        for end in range(len(said), 0, -1):
            for length in range(min(self._longest, end), 0, -1):
                found = self._categories.get(said[end - length : end])
                if found is not None:
                    return found
        return None


def _forms(name: str) -> list[tuple[str, ...]]:
    """A name's words, and the same with the last one in the plural."""
    said = tuple(word.lower() for word in _WORD.findall(spoken(name)))
    if not said:
        return []
    *first, last = said
    if last in _PLURALS:
        plural = _PLURALS[last]
    elif re.search(r"[^aeiou]y$", last):
        plural = last[:-1] + "ies"
    else:
        plural = last + ("es" if re.search(r"(s|x|ch|sh)$", last) else "s")
    return [said, (*first, plural)]


def general_names(names: Iterable[str], table: Path | None) -> dict[str, str]:
    """The more general name of each name: from a file of lines `name: general name`, else from `GENERAL_NAMES`.

    Raises:
        ConfigError: a name has none.
    """
    known = GENERAL_NAMES if table is None else _table(table)
    names = list(names)
    missing = [name for name in names if spoken(name).lower() not in known]
    if missing:
        raise ConfigError(
            f"no more general name for {', '.join(map(repr, missing[:5]))}{' ..' if len(missing) > 5 else ''}",
            why="protocol 2 asks for categories by more general names, and those built in are COCO's and VOC's",
            fix="general_names=FILE with a line 'name: general name' for every category",
        )
    return {name: known[spoken(name).lower()] for name in names}


def _table(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"cannot read {path}", why=str(problem), fix="general_names=FILE, a text file") from problem
    rows = [line.partition(":") for line in lines if line.strip()]
    bad = [name for name, _, general in rows if not name.strip() or not general.strip()]
    if bad:
        raise ConfigError(
            f"{path} has the line {bad[0]!r}", why="each line is 'name: general name'", fix="mend or delete the line"
        )
    return {spoken(name).lower(): general.strip() for name, _, general in rows}
