"""LVIS: COCO's layout with more than a thousand names, of which each picture was checked for a few only."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from synth.sources.annotation import Annotated, Vocabulary
from synth.sources.coco_file import CocoFile, is_id
from synth.sources.fault import Fault
from synth.sources.format import Format, Items, digest_of
from synth.sources.options import Folder
from synth.sources.pictures import PictureFolder

_USUAL = ("lvis_v1_*.json", "lvis_*.json", "annotations/lvis_*.json")


def read(folder: Folder, work: Path) -> Items:
    """Yield the pictures; names of ``not_exhaustive_category_ids`` are unsure, only ``neg_category_ids`` are absent."""
    with CocoFile(folder.annotations(*_USUAL), work, needed=()) as lvis:
        names = plain_names([row["name"] for row in lvis.categories.values()])
        lvis.names = {key: names[row["name"]] for key, row in lvis.categories.items()}
        yield Vocabulary(tuple(lvis.names.values()))
        yield from lvis.faults()
        for image, rows in lvis.pictures():
            file = _file(image)
            if file is None:
                yield Fault("picture without a file name", f"image {image['id']}")
                continue
            yield Annotated(
                file=file, width=image.get("width", 0), height=image.get("height", 0), licence=lvis.licence(image),
                things=[lvis.thing(k, row) for k, row in enumerate(rows)],
                unsure=_names(lvis, image, "not_exhaustive_category_ids"),
                absent=_names(lvis, image, "neg_category_ids"),
            )  # fmt: skip


def plain_names(names: list[str]) -> dict[str, str]:
    """Return how a person says each name: "bow_(weapon)" is "bow", unless another one would be "bow" too.

    >>> plain_names(["traffic_light", "bow_(weapon)", "bow_(decorative_ribbons)", "mouse_(computer_equipment)"])
    {'traffic_light': 'traffic light', 'bow_(weapon)': 'bow (weapon)', \
'bow_(decorative_ribbons)': 'bow (decorative ribbons)', 'mouse_(computer_equipment)': 'mouse'}
    """
    spaced = {name: name.replace("_", " ") for name in names}
    short = {name: re.sub(r"\s*\([^)]*\)", "", words).strip() or words for name, words in spaced.items()}
    times = Counter(short.values())
    return {name: short[name] if times[short[name]] == 1 else spaced[name] for name in names}


def _names(lvis: CocoFile, image: dict, key: str) -> list[str]:
    listed = image.get(key)
    numbers = listed if isinstance(listed, list) else []
    return sorted({lvis.names[n] for n in numbers if is_id(n) and n in lvis.names})


def _file(image: dict) -> str | None:
    """Return "train2017/000000391895.jpg": version 1 has COCO's address instead of a file name."""
    name = image.get("file_name") or "/".join(str(image.get("coco_url") or "").split("/")[-2:])
    return name if isinstance(name, str) and name else None


FORMAT = Format(
    read=read, pictures=lambda folder: PictureFolder(folder.pictures("images")), uses=("annotations", "images"),
    digest=lambda folder: digest_of([folder.annotations(*_USUAL)], folder.path),
    expects="lvis_v1_*.json, and the COCO folders train2017/ and val2017/", signs=tuple((p,) for p in _USUAL),
)  # fmt: skip
