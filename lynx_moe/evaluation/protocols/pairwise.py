"""SVO-Probes and VALSE: does the true picture, or caption, score higher than the false one?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row, Score
from lynx_moe.evaluation.protocols.files import FileProtocol, Files, setting
from lynx_moe.evaluation.protocols.ranking import averages, first_wins, scored_row, scores_of

CHANCE = {"accuracy": 1 / 2}
REPLACED = {"subj_neg": "subject", "verb_neg": "verb", "obj_neg": "object"}
# Instrument files and the piece of VALSE that each belongs to.
PIECES = {
    "existence": "existence",
    "plurals": "plurality",
    "counting-hard": "counting",
    "counting-small-quant": "counting",
    "counting-adversarial": "counting",
    "relations": "relations",
    "action-replacement": "actions",
    "actant-swap": "actions",
    "coreference-standard": "coreference",
    "coreference-hard": "coreference",
    "foil-it": "foil-it",
}
VALID = 2  # of three annotators who must have taken the caption for the true one


@dataclass(kw_only=True)
class Pairwise(FileProtocol):
    """Two asks, the first one true: right if it scores higher, strictly."""

    headline = "accuracy"

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        """Right if the first score is greater."""
        scores = scores_of(replies)
        right = first_wins(scores)
        return scored_row(item, scores, {"accuracy": right}, right)

    def summarise(self, rows: Sequence[Row]) -> dict:
        """`accuracy` over items, not a mean of the parts' means."""
        return averages(rows, CHANCE)


@PROTOCOLS.register("svo_probes")
@dataclass(kw_only=True)
class SvoProbes(Pairwise):
    """One caption, two pictures that differ in subject, verb or object: s(true picture) > s(false picture)."""

    name = "svo_probes"
    citation = "Hendricks and Nematzadeh, Findings of ACL 2021; as in arXiv 2305.07558"
    files = "`annotations/test.jsonl`, `images/`"
    oracle = "e-bug/fine-grained-evals `notebooks/SVO.ipynb`"

    split: str = setting("test", "which file of `annotations`")

    def _items(self, files: Files) -> Iterator[Item]:
        for row in files.rows(files.find(f"annotations/{self.split}.jsonl", f"{self.split}.jsonl")):
            taken = files.take(row, caption=str, pos_image=str, neg_image=str)
            replaced = [part for key, part in REPLACED.items() if str(row.get(key)).lower() in ("true", "1")]
            if taken is None:
                continue
            if row.get("svo_index") is None:
                files.faults["row without an index"] += 1
                continue
            # The notebook counts a row of several parts for the first, and keeps one that names none.
            part = replaced[0] if replaced else "unknown"
            caption, *names = taken
            loads = [files.picture(f"images/{name}") for name in names]
            if None in loads:
                continue
            yield Item(
                id=str(row["svo_index"]),
                asks=tuple(Score(image_id=n, load=load, text=caption) for n, load in zip(names, loads, strict=True)),
                truth={
                    "images": names,
                    "replaced": part,
                    "true": row.get("pos_triplet"),
                    "false": row.get("neg_triplet"),
                },
                group=part,
            )


@PROTOCOLS.register("valse")
@dataclass(kw_only=True)
class Valse(Pairwise):
    """One picture, a caption and a foil: s(caption) > s(foil), over items that two of three annotators found valid."""

    name = "valse"
    citation = "Parcalabescu et al., ACL 2022 (arXiv 2112.07566); as in arXiv 2305.07558"
    files = "`existence.json`, `plurals.json` and the other instruments, also in `data/`; `images/`"
    oracle = "e-bug/fine-grained-evals `models/X-VLM/VALSE.py`, `notebooks/VALSE.ipynb`"

    instrument: str = setting("all", "one instrument's file name without .json, or all")
    images: str = setting("images", "folder of the pictures")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._among("instrument", ["all", *PIECES])

    def _items(self, files: Files) -> Iterator[Item]:
        for instrument in PIECES if self.instrument == "all" else (self.instrument,):
            path = files.find(f"{instrument}.json", f"data/{instrument}.json")
            for key, row in files.keyed_rows(path):
                item = self._item(files, instrument, key, row)
                if item is not None:
                    yield item

    def _item(self, files: Files, instrument: str, key: str, row: dict) -> Item | None:
        taken = files.take(row, caption=str, foil=str, image_file=str, mturk=dict)
        if taken is None:
            return None
        caption, foil, name, votes = taken
        if not isinstance(votes.get("caption"), int) or votes["caption"] < VALID:
            files.faults["not found valid by two annotators"] += 1
            return None
        load = files.picture(f"{self.images}/{name}")
        if load is None:
            return None
        return Item(
            id=f"{instrument}/{key}",
            asks=tuple(Score(image_id=name, load=load, text=text) for text in (caption, foil)),
            truth={"images": [name], "instrument": instrument, "phenomenon": row.get("linguistic_phenomena")},
            group=instrument,
        )

    def summarise(self, rows: Sequence[Row]) -> dict:
        """`accuracy` over items; by instrument, and by piece."""
        return averages(rows, CHANCE, subsets={"by_piece": lambda row: [PIECES[row.truth["instrument"]]]})
