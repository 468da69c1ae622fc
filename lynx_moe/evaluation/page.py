"""One page of a run: numbers with their intervals, curves, and pictures of flips and of the worst answers.

Answers and questions are hostile text: everything is escaped, and the page runs no script and fetches nothing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from lynx_moe.errors import LynxError
from lynx_moe.evaluation.matching import matched
from lynx_moe.evaluation.protocol_run import AFTER, BEFORE, Done
from lynx_moe.evaluation.protocols.base import Item, Protocol, Row, Write
from lynx_moe.evaluation.rows import RowKey
from lynx_moe.evaluation.table import calibration_line
from lynx_moe.grounding import Box
from lynx_moe.grounding.drawing import GUESS_COLOUR, TRUE_COLOUR, draw

PAGE = "page.html"
BEFORE_COLOUR = "#3fa7ff"
FLIPS, WORST = 12, 8  # pictures of each, per protocol
SIDE = 320  # pixels of the longer side of a picture
LONGEST = 600  # characters of an answer


def page(content: dict, done: Done, curves: dict[str, bytes]) -> bytes:
    """The page of what results.json holds, self-contained.

    Args:
        content: of results.json.
        done: rows and protocols; pictures come from the protocols' own folders, and are left out where those are gone.
        curves: PNG by title.
    """
    made = Environment(
        loader=PackageLoader("lynx_moe.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"plain": plain, "signed": signed, "share": share, "sureness": calibration_line}
    text = made.get_template("evaluation.html.j2").render(
        c=content,
        curves=[(title, uri(data, "png")) for title, data in curves.items()],
        shown=[section for section in sections(content, done) if section["flips"] or section["worst"]],
        colours={"true": TRUE_COLOUR, "guess": GUESS_COLOUR, "before": BEFORE_COLOUR},
    )
    return text.encode("utf-8", "replace")


def sections(content: dict, done: Done) -> Iterator[dict]:
    """Per protocol, on plain pictures: its flips, and the worst of the model's answers."""
    flips = {(c["protocol"], c["variant"]): c["flips"] for c in content["changes"]}
    for key, rows in done.rows.items():
        if key.side != AFTER or key.variant:
            continue
        by_id = {row.id: row for row in rows}
        before = {row.id: row for row in done.rows.get(RowKey(BEFORE, "", key.protocol), [])}
        turned = flips.get((key.protocol, ""), [])
        # Lost ones first: they are what a reader is here for.
        names = [flip["id"] for flip in sorted(turned, key=lambda flip: flip["change"])][:FLIPS]
        protocol = done.protocols[key.protocol, ""]
        worst = [row.id for row in worst_of(protocol, rows) if row.id not in names][:WORST]
        items = items_of(protocol, {*names, *worst})
        change = {flip["id"]: flip["change"] for flip in turned}
        yield {
            "protocol": key.protocol,
            "all_flips": len(turned),
            "flips": [card(protocol, by_id[n], before[n], items.get(n), change[n]) for n in names],
            "worst": [card(protocol, by_id[n], before.get(n), items.get(n)) for n in worst],
        }


def worst_of(protocol: Protocol, rows: Sequence[Row]) -> list[Row]:
    """Wrong answers: those that could not be read first, then by how little they overlap the truth.

    Where rows are not right or wrong (detection), by how few of the true boxes are matched and how many others written.
    """

    def overlap(row: Row) -> float:
        if row.right is not None:
            return row.numbers.get("iou", 0.0)
        true = true_boxes(protocol, row.truth)
        return 2 * matched(row.boxes, true) / max(1, len(row.boxes) + len(true))

    return sorted((row for row in rows if not row.right), key=lambda row: (not row.errors, overlap(row)))


def items_of(protocol: Protocol, names: set[str]) -> dict[str, Item]:
    """The items of these ids, read anew; none where the protocol's files are not there any more."""
    if not names:
        return {}
    try:
        return {item.id: item for item in protocol.items() if item.id in names}
    except (LynxError, OSError):
        return {}


def card(protocol: Protocol, row: Row, before: Row | None, item: Item | None, change: str = "") -> dict:
    return {
        "id": row.id,
        "group": row.group,
        "change": change,
        "asked": cut("\n".join(row.asked)),
        "truth": cut(words_of(row.truth)),
        "after": cut(said(row)),
        "before": None if before is None else cut(said(before)),
        "errors": row.errors,
        "pictures": [] if item is None else pictures(protocol, item, row, before),
    }


def pictures(protocol: Protocol, item: Item, row: Row, before: Row | None) -> list[str]:
    """Data URIs of the item's pictures; boxes are drawn where there is only one, as then they can lie nowhere else."""
    loads = {}
    for number, ask in enumerate(item.asks):
        if not isinstance(ask, Write):
            loads.setdefault(ask.image_id, ask.load)
        elif ask.record.has_image:
            loads.setdefault(ask.record.image_id or str(number), ask.record.image)
    found = []
    for load in list(loads.values())[:4]:
        try:
            image = load().convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
        found.append(image)
    if len(found) == 1:
        layers = [(TRUE_COLOUR, true_boxes(protocol, row.truth)), (GUESS_COLOUR, row.boxes)]
        if before is not None:
            layers.insert(1, (BEFORE_COLOUR, before.boxes))
        return [thumbnail(found[0], layers)]
    return [thumbnail(image, []) for image in found]


def thumbnail(image: Image.Image, layers: list[tuple[str, list]]) -> str:
    scale = SIDE / max(image.size)
    size = tuple(max(1, round(scale * side)) for side in image.size)
    small = image.resize(size, Image.Resampling.LANCZOS)
    for colour, boxes in layers:
        small = draw(small, [Box(*(scale * value for value in box)) for box in boxes], colour=colour)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return uri(file.getvalue(), "jpeg")


def true_boxes(protocol: Protocol, truth: dict) -> list[Sequence[float]]:
    names = protocol.boxes_in or ("box", "boxes")
    return [box for name in names if "." not in name for box in boxes_of(truth.get(name))]


def boxes_of(value: Any) -> Iterator[Sequence[float]]:
    """Boxes in lists at any depth."""
    if isinstance(value, list | tuple) and value:
        if isinstance(value[0], int | float):
            yield value[:4]
        else:
            for each in value:
                yield from boxes_of(each)


def words_of(truth: dict) -> str:
    """The truth for a reader: its answer where it has one, else all of it that is short."""
    said = [f"{name}: {truth[name]}" for name in truth if name in ("answer", "answers", "label", "caption", "phrase")]
    return "\n".join(said) or ", ".join(
        f"{name}: {value}" for name, value in truth.items() if value not in (None, [], "")
    )


def said(row: Row) -> str:
    parts: Iterable[str] = row.answers or [f"{score:.4g}" for score in row.scores]
    return "\n".join(parts)


def cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text)} characters)"


def uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.3f}"


def share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def page_path(out: Path) -> Path:
    return out / PAGE
