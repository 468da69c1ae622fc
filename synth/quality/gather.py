"""One walk over a dataset folder that counts, samples and hashes: 24 bytes a picture stay in memory, no more."""

from __future__ import annotations

import zlib
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from synth.quality.blind import Example
from synth.quality.hashes import UNREADABLE, look_of
from synth.quality.samples import Samples
from synth.quality.tables import Shard, Tables
from synth.quality.tally import Counts, Places, TaskTally
from synth.quality.wordings import Wordings
from synth.record import named_pictures

_EXAMPLES = 20_000  # questions per task and part that the blind guessers see
SAID = ("language", "engine", "difficulty")  # columns counted where the records have them
_TYPE_WORDS = 2  # a question's type is how it begins


@dataclass(slots=True)
class BoxExample:
    """One question with a single box as shares of the picture, for the blind box."""

    phrase: str
    box: tuple[float, float, float, float]


@dataclass(slots=True)
class Gathered:
    """What the walk found. ``near`` and ``places`` tell, row by row, a picture's two hashes and (split, shard, row)."""

    tasks: dict[str, TaskTally] = field(default_factory=dict)
    pictures: Counter = field(default_factory=Counter)
    objects_per_picture: Counter = field(default_factory=Counter)
    names: Counts = field(default_factory=Counts)
    object_places: Places = field(default_factory=Places)
    kinds: Counter = field(default_factory=Counter)
    licences: Counter = field(default_factory=Counter)
    picture_licences: Counter = field(default_factory=Counter)
    said: dict[str, Counter] = field(default_factory=lambda: {name: Counter() for name in SAID})
    sources: Counter = field(default_factory=Counter)
    examples: dict[str, tuple[list[Example], list[Example]]] = field(default_factory=dict)
    box_examples: dict[str, tuple[list[BoxExample], list[BoxExample]]] = field(default_factory=dict)
    samples: Samples = field(default_factory=Samples)
    near: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.uint64))
    near_shards: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    near_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    unreadable: int = 0


def gather(tables: Tables, *, looks: bool = True, tick: Callable[[], None] = lambda: None) -> Gathered:
    """Walk over all shards; ``looks=False`` leaves the pictures undecoded, so no near-duplicates are known.

    ``tick`` is called once per shard.
    """
    found = Gathered()
    wordings = Wordings()
    near, shards, rows = array("Q"), array("i"), array("i")  # a list would take a hundred bytes a picture
    sizes: dict[str, tuple[int, int]] = {}
    held_out = _held_out(tables)
    for number, shard in enumerate(tables.shards):
        sizes.clear()
        for row, picture in enumerate(tables.pictures(shard, encoded=looks)):
            sizes[picture["image_id"]] = (picture["width"], picture["height"])
            _count_picture(found, wordings, shard, picture)
            if looks:
                data = tables.data(shard, picture)
                try:
                    look = look_of(data) if data is not None else None
                except UNREADABLE:
                    look = None
                if look is None:
                    found.unreadable += 1
                else:
                    near.extend(look.near)
                    shards.append(number)
                    rows.append(row)
        spoken_of: dict[str, str] = {}
        for record in tables.records(shard):
            shown = [sizes.get(name) for name in named_pictures(record)]
            _count_record(found, wordings, shard, number, record, shown, held_out)
            for name in named_pictures(record):
                if len(shown) == 1:
                    spoken_of[name] = record["licence"]
                else:  # of all its pictures together
                    spoken_of.setdefault(name, record["licence"])
        found.picture_licences.update(spoken_of.values())
        tick()
    found.near = np.array(near, np.uint64).reshape(-1, 2)
    found.near_shards, found.near_rows = np.array(shards, np.int32), np.array(rows, np.int32)
    return found


def _held_out(tables: Tables) -> Callable[[Shard, int, dict], bool]:
    """How to divide questions for guessing: by split, else by shard, else by picture.

    Other splits or shards are fairer than other pictures of the same shard: evening out ties the answers of a shard
    together, so that what was seen of it tells a little of the rest.
    """
    splits = sorted(
        tables.splits, key=lambda name: (name != "train", -sum(tables.splits[name]["counts"].values()), name)
    )
    if len(splits) > 1:
        return lambda shard, number, record: shard.split != splits[0]
    if len(tables.shards) > 3:
        return lambda shard, number, record: number % 4 == 0
    return lambda shard, number, record: zlib.crc32((record["image_id"] or record["id"]).encode()) % 4 == 0


def _count_picture(found: Gathered, wordings: Wordings, shard: Shard, picture: dict) -> None:
    found.pictures[shard.split] += 1
    found.objects_per_picture[len(picture["objects"])] += 1
    for thing in picture["objects"]:
        found.names.add(thing["name"])
        found.object_places.add(thing["box"], picture["width"], picture["height"])
        wordings.learn(thing["name"])
        wordings.learn_attributes(thing["attributes"])


def _count_record(
    found: Gathered, wordings: Wordings, shard: Shard, number: int, record: dict,
    sizes: list[tuple[int, int] | None], held_out,
) -> None:  # fmt: skip
    task = record["task"]
    tally = found.tasks.setdefault(task, TaskTally(kind=record["kind"]))
    question = wordings.parse(record["question"])
    tally.records += 1
    tally.splits[shard.split] += 1
    tally.answers.add(record["answer"])
    tally.types.add(" ".join(question.wording.split()[:_TYPE_WORDS]))
    tally.wordings.add(question.wording)
    found.kinds[record["kind"]] += 1
    found.licences[record["licence"]] += 1
    found.sources[record["source"]] += 1
    for name, counter in found.said.items():
        if record.get(name) is not None:
            counter[str(record[name])] += 1
    steps, picture = record["steps"] or (), record.get("picture") or 0
    boxes = [(step.get("picture") or 0, box) for step in steps for box in step["boxes"]]
    boxes += [(picture, box) for box in record["boxes"]]
    tally.boxes[len(boxes)] += 1
    aside = held_out(shard, number, record)
    examples = found.examples.setdefault(task, ([], []))[aside]
    if len(examples) < _EXAMPLES:
        examples.append(Example(question, record["answer"]))
    if sizes and None not in sizes:
        for lies_in, box in boxes:
            tally.places.add(box, *sizes[lies_in])
        if len(record["boxes"]) == 1:
            size = sizes[picture]
            x1, y1, x2, y2 = record["boxes"][0]
            single = found.box_examples.setdefault(task, ([], []))[aside]
            if len(single) < _EXAMPLES:
                shares = (x1 / size[0], y1 / size[1], x2 / size[0], y2 / size[1])
                single.append(BoxExample(record["phrase"] or "", shares))
        found.samples.offer(task, number, record)
