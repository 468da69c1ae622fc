"""A second opinion: reads the English question and the objects, and says what a right answer is.

Nothing of `synth.tasks` or its packs is used: phrases are found by the words that pictures are made of, places by plain
geometry of boxes. Where several things could be meant, it finds them all, and the test fails.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import numpy as np

COLOURS = "red orange yellow green blue purple white black".split()
SHAPES = "circle square triangle star heart cross".split()
THINGS = (
    "apple banana bicycle butterfly car cat clock crown dog duck elephant fish frog guitar hat house key mushroom "
    "pizza rocket strawberry tree turtle umbrella thing"
).split()
_PLURALS = {"butterflies": "butterfly", "strawberries": "strawberry", "crosses": "cross", "fish": "fish"}
SINGULAR = {f"{name}s": name for name in (*SHAPES, *THINGS)} | _PLURALS | {name: name for name in (*SHAPES, *THINGS)}
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
SIDE = re.compile(r"left of|right of|above|below")
UP = re.compile("tall|height")
ROWS = (("top", 0, 27), ("upper", 27, 42), ("middle", 42, 58), ("lower", 58, 73), ("bottom", 73, 100))
COLUMNS = (("far left", 0, 27), ("left", 27, 42), ("centre", 42, 58), ("right", 58, 73), ("far right", 73, 100))


@dataclass
class Told:
    """What is right: boxes of the answer and of each step, and the answer's words (None: any).

    Of several pictures: in which of them the boxes of the answer and of each step lie.
    """

    boxes: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    answer: str | None = None
    pictures: list = field(default_factory=lambda: [0])


def phrases(text: str) -> list[list[str]]:
    """Every run of words such as "small red star", in order, the name in the singular."""
    found, run = [], []
    for word in re.findall(r'words? "[A-Z]+"|[A-Za-z]+|[^\sA-Za-z]', text):
        if word in COLOURS or word in ("small", "large"):
            run.append(word)
        elif '"' in word and len(word) > 1:
            found.append([*run, re.sub("^words", "word", word)])
            run = []
        elif word in SINGULAR:
            found.append([*run, SINGULAR[word]])
            run = []
        else:
            run = []
    return found


def colour(obj):
    return obj.attributes.get("colour")


def size(obj):
    return obj.attributes.get("size")


def meant(scene, phrase):
    """All objects that the phrase could mean."""
    *words, name = phrase
    return [
        o for o in scene.objects
        if name in ("thing", o.name) and all(word in (colour(o), size(o)) for word in words)
    ]  # fmt: skip


def one(scene, phrase):
    (obj,) = meant(scene, phrase)
    return obj


def said(obj):
    return f"{colour(obj)} {obj.name}" if colour(obj) else obj.name


def article(text):
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"


def middle(obj):
    return (obj.box[0] + obj.box[2]) / 2, (obj.box[1] + obj.box[3]) / 2


def beyond(scene, side, anchor, phrase):
    """All things of the phrase whose middle is on that side of the anchor's."""
    k, sign = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}[side]
    return [o for o in meant(scene, phrase) if o is not anchor and sign * (middle(o)[k] - middle(anchor)[k]) > 0]


def row_of(scene, phrase, way):
    k, last_first = {"left": (0, False), "right": (0, True), "top": (1, False), "bottom": (1, True)}[way]
    return sorted(meant(scene, phrase), key=lambda o: middle(o)[k], reverse=last_first)


def listed(parts):
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def boxes(objects):
    return [list(o.box) for o in objects]


def in_reading_order(scene, phrase):
    return sorted(meant(scene, phrase), key=lambda o: middle(o))


def extent(obj, scene):
    width, height = obj.box[2] - obj.box[0], obj.box[3] - obj.box[1]
    return round(width / scene.width * 10) * 10, round(height / scene.height * 10) * 10


def place(obj, scene):
    x, y = middle(obj)
    row = next(name for name, low, high in ROWS if low <= 100 * y / scene.height < high)
    return row, next(name for name, low, high in COLUMNS if low <= 100 * x / scene.width < high)


def find(scene, question):
    target = one(scene, phrases(question)[0])
    return Told(boxes([target]))


def find_all(scene, question):
    found = in_reading_order(scene, phrases(question)[0])
    places = " ".join(f"{{box:{k}}}" for k in range(len(found)))
    return Told(boxes(found), answer=f"Found {len(found)}: {places}.")


def segment_all(scene, question):
    found = in_reading_order(scene, phrases(question)[0])
    masks = " ".join(f"{{mask:{k}}}" for k in range(len(found)))
    return Told(boxes(found), answer=f"Found {len(found)}: {masks}.") if found else absent(scene, question)


def segment_one(scene, question):
    return Told(find(scene, question).boxes, answer="It is {mask:0}.")


def segment_relation(scene, question):
    told = relation(scene, question)
    (target,) = [o for o in scene.objects if boxes([o]) == told.boxes]
    return Told(told.boxes, told.steps, f"The {said(target)} is {{mask:0}}.")


def absent(scene, question):
    assert not meant(scene, phrases(question)[0])
    return Told(answer=f"There is no {' '.join(phrases(question)[0])}.")


def relation(scene, question):
    name, of = phrases(question)[:2]
    anchor = one(scene, of)
    (target,) = beyond(scene, SIDE.search(question)[0], anchor, name)
    return Told(boxes([target]), [boxes([anchor])])


def attribute(scene, question):
    anchor = one(scene, phrases(question)[-1])
    (target,) = beyond(scene, SIDE.search(question)[0], anchor, ["thing"])
    return Told([], [boxes([anchor]), boxes([target])], f"It is {article(said(target))}.")


def count_by_pointing(scene, question):
    found = in_reading_order(scene, phrases(question)[0])
    return Told([], [boxes([o]) for o in found], f"The count is {len(found)}.")


def ordinal(scene, question):
    rank, way = re.search(r"""(\w+) \w+(?: "\w+")? from the (left|right|top|bottom)""", question).groups()
    row, k = row_of(scene, phrases(question)[0], way), ORDINALS.index(rank)
    return Told(boxes([row[k]]), [boxes([o]) for o in row[:k]])


def superlative(scene, question):
    (phrase, *others), steps = phrases(question), []
    found = meant(scene, phrase)
    if others:
        anchor = one(scene, others[0])
        steps = [boxes([anchor])]
        found = sorted((o for o in found if o is not anchor), key=lambda o: math.dist(middle(o), middle(anchor)))
        return Told(boxes([found[0 if "closest" in question else -1]]), steps)
    way = re.search("largest|smallest|widest|tallest", question)[0]
    by = {"largest": 0, "smallest": 1, "widest": 2, "tallest": 3}[way]
    ranked = sorted(found, key=lambda o: (-o.area, o.area, o.box[0] - o.box[2], o.box[1] - o.box[3])[by])
    return Told(boxes(ranked[:1]))


def multi_hop(scene, question):
    met = [one(scene, phrases(question)[0])]
    for name, side, _ in re.findall(r'the (\w+(?: "\w+")?) (left of|right of|above|below) (it|that one)', question):
        (thing,) = beyond(scene, side, met[-1], phrases(name)[0])
        met.append(thing)
    assert len({id(o) for o in met}) == len(met) >= 3
    return Told(boxes(met[-1:]), [boxes([o]) for o in met[:-1]], f"The last one is the {said(met[-1])} at {{box:0}}.")


def compare_counts(scene, question):
    found = [in_reading_order(scene, phrase) for phrase in phrases(question)]
    n, m = map(len, found)
    return Told([], [boxes(things) for things in found], f"{'Yes' if n > m else 'No'}, {n} against {m}.")


def odd_one_out(scene, question):
    value = {"kind": lambda o: o.name, "colour": colour, "size": size}[re.search("kind|colour|size", question)[0]]
    values = [value(o) for o in scene.objects]
    (target,) = [o for o in scene.objects if values.count(value(o)) == 1]
    others = sorted((o for o in scene.objects if o is not target), key=middle)
    assert len(set(values)) == 2 and None not in values and len(others) >= 2
    return Told(boxes([target]), [boxes(others)], f"The odd one out is the {said(target)} at {{box:0}}.")


def grounded_caption(scene, question):
    found = sorted(scene.objects, key=middle)
    parts = [f"{article(said(o))} at {{box:{k}}}" for k, o in enumerate(found)]
    return Told(boxes(found), answer=f"There is {listed(parts)}.")


def of_one(answer):
    """A task about the one thing that its question names."""
    return lambda scene, question: Told(answer=answer(one(scene, phrases(question)[0]), scene, question))


def of_two(chosen):
    """A task that chooses one of two things."""

    def tell(scene, question):
        named = phrases(question)[-2:]
        pair = [one(scene, phrase) for phrase in named]
        return Told(answer=" ".join(named[pair.index(chosen(pair, question))]))

    return tell


def further(pair, question):
    k, best = {"left": (0, min), "right": (0, max), "higher": (1, min), "lower": (1, max)}[
        re.search(r"left|right|higher|lower", question)[0]
    ]
    return best(pair, key=lambda o: middle(o)[k])


def side(scene, question):
    anchor_of = one(scene, phrases(question)[1])
    there = one(scene, phrases(question)[0]) in beyond(scene, SIDE.search(question)[0], anchor_of, ["thing"])
    return Told(answer="yes" if there else "no")


def beside(scene, question):
    (target,) = beyond(scene, SIDE.search(question)[0], one(scene, phrases(question)[-1]), ["thing"])
    return Told(answer=said(target))


def shape(scene, question):
    (obj,) = [o for o in scene.objects if colour(o) in re.findall(r"\w+", question)]
    return Told(answer=obj.name)


def facts(obj, scene, question):
    (row, column), (width, height) = place(obj, scene), extent(obj, scene)
    known = {
        "row": row, "column": column, "width": width, "height": height, "size": size(obj), "colour": colour(obj),
        "form": "wide" if obj.width > obj.height else "tall",
    }  # fmt: skip
    asked = re.findall(r"\b(?:row|column|width|height|size|colour|form)\b", question)
    return f"The {' '.join(phrases(question)[0])}: [{', '.join(str(known[term]) for term in asked)}]."


def find_word(scene, question):
    (target,) = [o for o in scene.objects if o.name == "word " + re.search('"[A-Z]+"', question)[0]]
    return Told(boxes([target]), answer=f"It says {target.name.removeprefix('word ')} at {{box:0}}.")


def at_point(scene, point):
    """The one thing whose pixels, or whose box for a word, hold the point with a pixel around it."""
    column, row = int(point[0]), int(point[1])
    around = np.s_[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
    found = [o for o in scene.objects if o.kind != "text" and o.mask[row, column]]
    assert all(o.mask[around].all() for o in found)
    words = [o for o in scene.objects if o.kind == "text" and all(o.box[k] < point[k] < o.box[k + 2] for k in (0, 1))]
    (obj,) = [*found, *words]
    return obj


def describe(scene, question):
    return Told(answer=listed([article(said(o)) for o in in_reading_order(scene, ["thing"])]))


TELL = {
    "find_one": find, "find_attribute": find, "find_all": find_all, "absent": absent, "relation": relation,
    "attribute": attribute, "count_by_pointing": count_by_pointing, "ordinal": ordinal, "superlative": superlative,
    "multi_hop": multi_hop, "compare_counts": compare_counts, "odd_one_out": odd_one_out,
    "grounded_caption": grounded_caption, "side": side, "beside": beside, "shape": shape,
    "larger": of_two(lambda pair, question: max(pair, key=lambda o: o.area)), "further": of_two(further),
    "count": lambda scene, question: Told(answer=str(len(meant(scene, phrases(question)[-1])))),
    "exists": lambda scene, question: Told(answer="yes" if meant(scene, phrases(question)[0]) else "no"),
    "colour": of_one(lambda obj, scene, question: colour(obj)), "size": of_one(lambda obj, scene, question: size(obj)),
    "form": of_one(lambda obj, scene, question: "wide" if obj.width > obj.height else "tall"),
    "where": of_one(lambda obj, scene, question: " ".join(place(obj, scene))), "facts": of_one(facts),
    "measure": of_one(lambda obj, scene, question: f"{extent(obj, scene)[bool(UP.search(question))]} percent"),
    "find_word": find_word, "segment_one": segment_one, "segment_all": segment_all,
    "segment_relation": segment_relation,
    "background": lambda scene, question: Told(answer=scene.background),
    "describe": describe,
}  # fmt: skip


def shown(scene, record):
    """What to answer about the box or point that a question shows."""
    for box in record["question_boxes"]:
        (obj,) = [o for o in scene.objects if list(o.box) == list(box)]
    for point in record["question_points"]:
        obj = at_point(scene, point)
    if record["task"] == "find_at_point":
        return Told(boxes([obj]))
    if record["task"] == "region_colour":
        return Told(answer=colour(obj))
    return Told(answer=obj.name.split('"')[1] if record["task"] == "read_word" else article(said(obj)))


def which_picture(pair, question):
    found = [meant(scene, phrases(question)[0]) for scene in pair]
    k = int(not found[0])
    (target,) = found[k]
    assert not found[1 - k]
    phrase = " ".join(phrases(question)[0])
    steps = [boxes([target]) if n == k else [] for n in range(2)]
    return Told(boxes([target]), steps, f"The {phrase} is in the {ORDINALS[k]} picture, at {{box:0}}.", [k, 0, 1])


def same(pair, box):
    """What of the second picture is of the kind that a question's box shows in the first."""
    (shown,) = [o for o in pair[0].objects if list(o.box) == list(box)]
    (target,) = meant(pair[1], [shown.name])
    return Told(boxes([target]), [boxes([shown])], f"The {shown.name} is at {{box:0}}.", [1, 0])


def more_in(pair, question):
    n, m = (len(meant(scene, phrases(question)[-1])) for scene in pair)
    assert n or m
    return Told(answer="equally many" if n == m else "first" if n > m else "second")


def difference(pair, question):
    k = ("first", "second").index(re.search("first|second", question)[0]) ^ ("missing" in question)
    others = {o.name for o in pair[1 - k].objects}
    alone = dict.fromkeys(o.name for o in in_reading_order(pair[k], ["thing"]) if o.name not in others)
    return Told(answer=listed([article(name) for name in alone]))


TELL_OF_TWO = {"which_picture": which_picture, "more_in": more_in, "difference": difference}
