"""Winoground and NaturalBench-Retrieval: two pictures, two captions, each caption true of one picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row, Score
from lynx_moe.evaluation.protocols.files import FileProtocol, Files, Load, setting
from lynx_moe.evaluation.protocols.ranking import averages, scored_row, scores_of

# In this order an item asks: caption, then picture.
ASKED = ("c0_i0", "c1_i0", "c0_i1", "c1_i1")
CHANCE = {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6}


@dataclass(kw_only=True)
class TwoByTwo(FileProtocol):
    """Text score: each picture's own caption wins; image score: each caption's own picture wins; group: both."""

    headline = "group"

    def _item(
        self, key: str, captions: Sequence[str], pictures: Sequence[tuple[str, Load | None]], truth: dict
    ) -> Item | None:
        if any(load is None for _, load in pictures):
            return None
        asks = tuple(Score(image_id=name, load=load, text=text) for name, load in pictures for text in captions)
        return Item(
            id=key, asks=asks, truth={"images": [name for name, _ in pictures], **truth}, group=truth.get("tag", "")
        )

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        """Four scores, all comparisons strict."""
        scores = scores_of(replies)
        s = dict(zip(ASKED, scores, strict=True))
        text = s["c0_i0"] > s["c1_i0"] and s["c1_i1"] > s["c0_i1"]
        image = s["c0_i0"] > s["c0_i1"] and s["c1_i1"] > s["c1_i0"]
        return scored_row(item, scores, {"text": text, "image": image, "group": text and image}, text and image)

    def summarise(self, rows: Sequence[Row]) -> dict:
        """`text`, `image`, `group`."""
        return averages(rows, CHANCE)


@PROTOCOLS.register("winoground")
@dataclass(kw_only=True)
class Winoground(TwoByTwo):
    """Captions of the same words in another order; text, image and group score, by tag and number of predicates."""

    name = "winoground"
    citation = "Thrush et al., CVPR 2022 (arXiv 2204.03162)"
    files = "`examples.jsonl` with `images/ex_0_img_0.png`, or the Hub's `*.parquet`; both also in `data/`"
    oracle = "e-bug/fine-grained-evals `notebooks/Winoground.ipynb`"

    def _items(self, files: Files) -> Iterator[Item]:
        tables = sorted([*self.folder.glob("*.parquet"), *self.folder.glob("data/*.parquet")])
        for path in tables or [files.find("examples.jsonl", "data/examples.jsonl")]:
            for row in files.rows(path):
                taken = files.take(row, id=int, caption_0=str, caption_1=str, num_main_preds=int)
                if taken is None:
                    continue
                number, *captions, predicates = taken
                pictures = [self._picture(files, row, number, k) for k in (0, 1)]
                tags = {name: str(row.get(name) or "") for name in ("tag", "secondary_tag", "collapsed_tag")}
                item = self._item(str(number), captions, pictures, {**tags, "num_main_preds": predicates})
                if item is not None:
                    yield item

    def _picture(self, files: Files, row: dict, number: int, which: int) -> tuple[str, Load | None]:
        held = row.get(f"image_{which}")
        name = f"ex_{number}_img_{which}"
        if isinstance(held, dict):
            found = files.held_picture(held.get("bytes"), name)
            return name, found and found[0]
        file = f"{held}.png" if isinstance(held, str) and "." not in held else str(held)
        return str(held), files.picture(f"images/{file}", f"data/images/{file}")

    def summarise(self, rows: Sequence[Row]) -> dict:
        """`text`, `image`, `group`; by tag, secondary tag (a row may have several), collapsed tag, and predicates."""
        return averages(
            rows,
            CHANCE,
            subsets={
                "by_secondary_tag": lambda row: filter(None, row.truth["secondary_tag"].split(", ")),
                "by_collapsed_tag": lambda row: filter(None, [row.truth["collapsed_tag"]]),
                "by_num_main_preds": lambda row: [str(row.truth["num_main_preds"])],
            },
        )


@PROTOCOLS.register("naturalbench")
@dataclass(kw_only=True)
class NaturalBench(TwoByTwo):
    """NaturalBench-Retrieval: pictures and captions that people tell apart at once, scored exactly as Winoground."""

    name = "naturalbench"
    citation = "Li et al., NeurIPS 2024 (arXiv 2410.14669), its retrieval form"
    files = "`metadata.json` (`index, image_0, image_1, caption_0, caption_1`), `images/`"
    oracle = "Baiqi-Li/NaturalBench, its retrieval script"

    images: str = setting("images", "folder of the pictures")

    def _items(self, files: Files) -> Iterator[Item]:
        for row in files.rows(files.find("metadata.json", "NaturalBench-Retrieval/metadata.json")):
            taken = files.take(row, index=int, caption_0=str, caption_1=str, image_0=str, image_1=str)
            if taken is not None:
                number, *captions, first, second = taken
                places = [(f"{self.images}/{n}", f"NaturalBench-Retrieval/{self.images}/{n}") for n in (first, second)]
                pictures = [(name, files.picture(*at)) for name, at in zip((first, second), places, strict=True)]
                item = self._item(str(number), captions, pictures, {})
                if item is not None:
                    yield item
