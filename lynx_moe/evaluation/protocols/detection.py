"""Finding all things of given categories: what the detection protocols share, whatever files they read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from lynx_moe.data import final_answer
from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.metrics.detected import Detected
from lynx_moe.evaluation.protocols.base import Item, Reply, Row
from lynx_moe.evaluation.protocols.category_names import CategoryNames, general_names, spoken
from lynx_moe.evaluation.protocols.grounding import (
    GroundingProtocol,
    is_ranked,
    mean,
    row_of,
    setting,
    words,
)
from lynx_moe.evaluation.protocols.picture_files import Picture

UNNAMED = ""  # the label of a box that no category could be found for


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What a file says of one picture: `things` are (category name, xyxy box, area, does not count).

    `absent` and `unsure` are category names, as in `Detected`; `frequencies` LVIS's letter of each category that is
    there.
    """

    id: str
    picture: Picture
    things: Sequence[tuple[str, Sequence[float], float, bool]]
    absent: Sequence[str] = ()
    unsure: Sequence[str] = ()
    frequencies: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class DetectionProtocol(GroundingProtocol):
    """Base of detection: one item a picture, in one of three ways to ask (arXiv 2410.10491, as reviewers tell them).

    1. All objects are asked for at once, by no name. A box is of the category that its label names, or, where the
       family's spelling has no labels, that the words before it do (`CategoryNames.find`). A box of no category is
       counted (`unnamed`) and left out of the AP; COCO's `ap_any_category` holds it against the model.
    2. As 3, by more general names: "animal" for "cat". Things of one general name are one category. The paper made
       these names with a sentence transformer; ours are a table (`general_names`), by hand for COCO and VOC.
    3. Each category is asked for by its name.

    In 2 and 3 `categories="all"` asks for every category of the file (of LVIS: for those that the picture was checked
    for), `"present"` only for those that are there, where no false alarm is possible about others: easier, and said in
    the result. `together` names them all in one question, and labels are read as in 1. That annotations, not another
    model's answers, are the truth in 1 and 2 differs from the paper too. Boxes are ranked by `Reply.confidences`;
    those of a reply without are all the surest (`unranked` is their share).
    """

    federated: ClassVar[bool] = False

    protocol: int = setting(3, "1: list everything; 2: by more general names; 3: by name")
    categories: str = setting("all", "all or present: which categories 2 and 3 ask for")
    together: bool = setting(False, "name all categories in one question, instead of one question each")
    general_names: Path | None = setting(None, "file of lines 'name: general name' for protocol 2")
    prompt: str = setting("Find every {category}.", "the question of 2 and 3; {category} is the name")
    list_prompt: str = setting("List all objects in the picture and where they are.", "the question of 1")
    together_prompt: str = setting("Find all objects of these kinds: {categories}.", "the question of `together`")
    interval_seconds: float = setting(60.0, "longest time for the interval")
    _general: dict[str, str] | None = field(default=None, init=False, repr=False)
    _finder: tuple[list[str], CategoryNames] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.general_names = Path(self.general_names) if self.general_names else None
        for name, value, known in (
            ("protocol", self.protocol, (1, 2, 3)),
            ("categories", self.categories, ("all", "present")),
        ):
            if value not in known:
                raise ConfigError(
                    f"{name} is {value!r}",
                    why=f"it is one of {', '.join(map(str, known))}",
                    fix=f"{name}={known[-1]}",
                )
        words(self.prompt, category="")
        words(self.together_prompt, categories="")

    @abstractmethod
    def scenes(self) -> Iterator[Scene]:
        """The pictures of the file, annotated."""

    @abstractmethod
    def names(self) -> Mapping[str, Sequence[str]]:
        """All categories of the file by name, each with what else it is called."""

    def read(self) -> Iterator[Item]:
        self._general = self._finder = None
        every, _ = self._told_apart()
        for scene in self.scenes():
            item = self._item(scene, sorted(every))
            if item.asks:
                yield item
            else:
                self.faults["picture with nothing to ask for"] += 1

    def _told_apart(self) -> tuple[list[str], CategoryNames]:
        """The categories that count, the file's or in protocol 2 the more general ones; what finds them in words."""
        if self._finder is None:
            own = self.names()
            if self.protocol == 2:
                self._general = general_names(own, self.general_names)
                own = dict.fromkeys(self._general.values(), ())
            names = list(own)
            called = {k: [name, *own[name]] for k, name in enumerate(names)}
            self._finder = names, CategoryNames(called)
        return self._finder

    def _item(self, scene: Scene, every: Sequence[str]) -> Item:
        general = self._general or {}
        there = sorted({general.get(name, name) for name, *_ in scene.things})
        absent, unsure = self._known_of(scene, there)
        checked = sorted({*there, *absent}) if self.federated else list(every)
        wanted = [] if self.protocol == 1 else there if self.categories == "present" else checked
        if self.protocol == 1:
            questions = [self.list_prompt]
        elif self.together:
            questions = [words(self.together_prompt, categories=", ".join(map(spoken, wanted)))] if wanted else []
        else:
            questions = [words(self.prompt, category=spoken(name)) for name in wanted]
        phrases = [""] * len(questions) if self.protocol == 1 or self.together else wanted
        return Item(
            id=scene.id,
            asks=tuple(
                self.ask(scene.picture, question, f"{scene.id}-{k}", spoken(phrase))
                for k, (question, phrase) in enumerate(zip(questions, phrases, strict=True))
            ),
            truth={
                "image": scene.picture.file,
                "size": list(scene.picture.size),
                "boxes": [list(map(float, box)) for _, box, _, _ in scene.things],
                "labels": [general.get(name, name) for name, *_ in scene.things],
                "areas": [float(area) for _, _, area, _ in scene.things],
                "uncounted": [bool(uncounted) for *_, uncounted in scene.things],
                "absent": absent,
                "unsure": unsure,
                "asked": phrases,
                "frequencies": dict(scene.frequencies),
            },
        )

    def _known_of(self, scene: Scene, there: Sequence[str]) -> tuple[list[str], list[str]]:
        """Which names are known to be absent, and of which that are there not all things are marked.

        A more general name is absent only where all that it stands for is, and unsure where anything of it is, or was
        never looked for.
        """
        if not self.federated or not self._general:
            return sorted(set(scene.absent) - set(there)), sorted(set(scene.unsure) & set(there))
        looked_for = {name for name, *_ in scene.things} | set(scene.absent)
        members: dict[str, set[str]] = {}
        for name, general in self._general.items():
            members.setdefault(general, set()).add(name)
        absent = [name for name, of in members.items() if name not in there and of <= set(scene.absent)]
        unsure = [name for name in there if members[name] & set(scene.unsure) or members[name] - looked_for]
        return sorted(absent), sorted(unsure)

    def judge(self, item: Item, replies: Sequence[Reply]) -> Row:
        labels: list[str] = []
        for reply, asked in zip(replies, item.truth["asked"], strict=True):
            labels += [asked or self._label(reply, k) for k in range(len(reply.parsed.boxes))]
        ranked = sum(len(reply.parsed.boxes) for reply in replies if is_ranked(reply))
        numbers = {"unnamed": float(labels.count(UNNAMED)), "unranked": float(len(labels) - ranked)}
        return row_of(item, replies, labels=labels, numbers=numbers)

    def _label(self, reply: Reply, number: int) -> str:
        names, finder = self._told_apart()
        found = finder.find(spoken_before(reply, number))
        return UNNAMED if found is None else names[found]

    def about_the_asking(self, rows: Sequence[Row]) -> dict:
        """What every detection result says beside its AP."""
        boxes = sum(len(row.boxes) for row in rows)
        return {
            "asked": {1: "everything", 2: "general names", 3: "names"}[self.protocol],
            "categories": "none" if self.protocol == 1 else self.categories,
            "unnamed": sum(row.numbers["unnamed"] for row in rows) / boxes if boxes else None,
            "unranked": sum(row.numbers["unranked"] for row in rows) / boxes if boxes else None,
            "boxes_per_picture": mean(len(row.boxes) for row in rows),
        }


def detected(
    rows: Sequence[Row], ids: Mapping[str, int], limit: int | None = None, any_category: bool = False
) -> list[Detected]:
    """Rows as the metrics want them.

    Args:
        ids: category id by label; boxes of other labels are left out.
        limit: keep so many of a picture's boxes, the most confident ones.
        any_category: all boxes are of one category, 1, those without a label too.
    """
    made = []
    for row in rows:
        named = [k for k, label in enumerate(row.labels) if any_category or label != UNNAMED]
        sure = sorted(named, key=lambda k: -row.confidences[k])[:limit] if limit else named
        found = [k for k in sure if any_category or row.labels[k] in ids]
        truth = row.truth
        made.append(
            Detected(
                size=tuple(truth["size"]),
                true_boxes=truth["boxes"],
                true_categories=[1 if any_category else ids[label] for label in truth["labels"]],
                crowds=truth["uncounted"],
                areas=truth["areas"],
                found_boxes=[row.boxes[k] for k in found],
                found_categories=[1 if any_category else ids[row.labels[k]] for k in found],
                confidences=[row.confidences[k] for k in found],
                absent=frozenset(ids[label] for label in truth["absent"] if label in ids),
                unsure=frozenset(ids[label] for label in truth["unsure"] if label in ids),
            )
        )
    return made


def spoken_before(reply: Reply, number: int) -> str:
    """What a reply calls its box: its label, or where the spelling has none the words since the box before it."""
    own = reply.parsed.boxes[number].label
    spans = reply.parsed.spans
    if own or number >= len(spans):
        return own
    start = spans[number - 1][1] if number else 0
    return final_answer(reply.text)[start : spans[number][0]]
