"""Visual Spatial Reasoning: is the statement about where two things are true of the picture?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.protocols.base import PROTOCOLS, Item, Reply, Row, Score
from lynx_moe.evaluation.protocols.files import FileProtocol, Files, setting
from lynx_moe.evaluation.protocols.ranking import NO_SCORE, averages, scored_row, scores_of

CHANCE = {"accuracy": 1 / 2}
FITTED = "dev"
NO_PROBABILITY = "score is not a probability"
# The authors' groups of relations. They list "among" as topological too; in their notebook the last entry wins.
GROUPS = {
    "adjacency": "adjacent to, alongside, at the side of, at the right side of, at the left side of, attached to, "
    "at the back of, ahead of, against, at the edge of",
    "directional": "off, past, toward, down, deep down, up, away from, along, around, from, into, to, across, "
    "across from, through, down from",
    "orientation": "facing, facing away from, parallel to, perpendicular to",
    "projective": "on top of, beneath, beside, behind, left of, right of, under, in front of, below, above, over, "
    "in the middle of",
    "proximity": "by, close to, near, far from, far away from",
    "topological": "connected to, detached from, has as a part, part of, contains, within, at, on, in, with, "
    "surrounding, consists of, out of, between, inside, outside, touching",
    "unallocated": "beyond, next to, opposite to, after, among, enclosed by",
}
GROUP_OF = {relation: group for group, relations in GROUPS.items() for relation in relations.split(", ")}


@PROTOCOLS.register("vsr")
@dataclass(kw_only=True)
class Vsr(FileProtocol):
    """Right if (score >= threshold) is the label; 0.5 for a probability, else a threshold fitted on the dev split.

    0.5 means something for a probability alone, so with it the run must refuse another scorer (`needs_probability`);
    a score outside 0 to 1 is wrong and counted. With `threshold="dev"` the dev split is asked too, and the
    threshold that is best there is applied to the test split; verdicts exist only in the sum then, and rows have none.
    """

    name = "vsr"
    citation = "Liu, Emerson and Collier, TACL 2023 (arXiv 2205.00363); threshold as in arXiv 2305.07558"
    headline = "accuracy"
    files = "`random/test.jsonl`, `random/dev.jsonl`, also in `data/splits/` or `annotations/`; `images/`"
    oracle = "e-bug/fine-grained-evals `models/X-VLM/VSR.py`, `notebooks/VSR.ipynb`"

    split: str = setting("test", "train, dev or test")
    variant: str = setting("random", "random or zeroshot")
    threshold: float | str = setting(0.5, "of a probability, or dev: fitted on the dev split")
    images: str = setting("images", "folder of the pictures")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._among("split", ("train", "dev", "test"))
        self._among("variant", ("random", "zeroshot"))
        if self.threshold != FITTED:
            self.threshold = _share(self.threshold)
        elif self.split == FITTED:
            raise ConfigError(
                "vsr cannot fit a threshold on the split that it measures",
                why="the number would be of the data that chose it", fix="split=test",
            )  # fmt: skip

    @property
    def needs_probability(self) -> bool:
        """Whether scores must be probabilities for the numbers to mean anything."""
        return self.threshold != FITTED

    def _items(self, files: Files) -> Iterator[Item]:
        for split in (FITTED, self.split) if self.threshold == FITTED else (self.split,):
            file = f"{self.variant}/{split}.jsonl"
            path = files.find(file, f"data/splits/{file}", f"annotations/{file}", f"{split}.jsonl")
            for number, row in enumerate(files.rows(path)):
                taken = files.take(row, image=str, caption=str, label=int, relation=str)
                if taken is None:
                    continue
                image, caption, label, relation = taken
                load = files.picture(f"{self.images}/{image}", f"data/{self.images}/{image}")
                if label not in (0, 1):
                    files.faults["row without a usable label"] += 1
                elif load is not None:
                    yield Item(
                        id=f"{split}/{number}",
                        asks=(Score(image_id=image, load=load, text=caption),),
                        truth={"images": [image], "label": label, "relation": relation, "split": split},
                        group=GROUP_OF.get(relation.strip(), "unknown"),
                    )

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        """One score against the threshold."""
        (score,) = scores = scores_of(replies)
        if self.threshold == FITTED:
            return scored_row(item, scores, {}, None)
        right = 0 <= score <= 1 and (score >= self.threshold) == bool(item.truth["label"])
        row = scored_row(item, scores, {"accuracy": right}, right)
        if not 0 <= score <= 1 and not math.isnan(score):
            row.errors[NO_PROBABILITY] = 1
        return row

    def summarise(self, rows: Sequence[Row]) -> dict:
        """`accuracy`, by group of relations and by relation; and the `threshold`, with where it is from."""
        ways = {"by_relation": lambda row: [row.truth["relation"]]}
        if self.threshold != FITTED:
            told = {"threshold": self.threshold, "threshold_from": "given, for a probability"}
            return {**averages(rows, CHANCE, subsets=ways), **told}
        dev = [row for row in rows if row.truth["split"] == FITTED]
        threshold = best_threshold([row.scores[0] for row in dev], [row.truth["label"] for row in dev])
        ours = [row for row in rows if row.truth["split"] == self.split]
        if threshold is not None:
            ours = [_against(row, threshold) for row in ours]
        told = {"threshold": threshold, "threshold_from": f"fitted on {len(dev)} rows of dev"}
        return {**averages(ours, CHANCE, subsets=ways), **told}


def best_threshold(scores: Sequence[float], labels: Sequence[int]) -> float | None:
    """The lowest score t for which (score >= t) == label holds most often; None without any score.

    Infinity, where calling everything false is best. Scores that are no numbers are left out.

    >>> best_threshold([0.1, 0.4, 0.8], [0, 1, 1])
    0.4
    """
    known = sorted((score, label) for score, label in zip(scores, labels, strict=True) if not math.isnan(score))
    if not known:
        return None
    # From the lowest threshold upwards: everything is called true, then one more score after another false.
    right = best = sum(label for _, label in known)
    found = known[0][0]
    for place, (_, label) in enumerate(known):
        right += 1 if label == 0 else -1
        following = known[place + 1][0] if place + 1 < len(known) else math.inf
        if right > best and following != known[place][0]:
            best, found = right, following
    return found


def _against(row: Row, threshold: float) -> Row:
    right = NO_SCORE not in row.errors and (row.scores[0] >= threshold) == bool(row.truth["label"])
    return replace(row, right=right, numbers={"accuracy": float(right)})


def _share(value: float | str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ConfigError(f"vsr has no threshold {value!r}", why="it is a probability, or dev", fix="threshold=0.5")
    return number
