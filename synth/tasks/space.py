"""What may be said of where things lie, of their form, and of what is not there: with margins a person would agree to.

All margins are our choice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from synth.languages import Say
from synth.scene import Box, Obj, Scene
from synth.tasks.base import Draft, Facts

SIDES = ("left of", "right of", "above", "below")
AXIS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
_FORM = 1.3  # how many times longer the longer side must be for a person to say "wide" or "tall"


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    sides = [max(0.0, min(one[k + 2], other[k + 2]) - max(one[k], other[k])) for k in (0, 1)]
    common = sides[0] * sides[1]
    area, other_area = ((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return common / (area + other_area - common)


def form_of(obj: Obj) -> str:
    """ "wide" or "tall", or nothing where it is neither plainly."""
    if max(obj.width, obj.height) <= _FORM * min(obj.width, obj.height):
        return ""
    return "wide" if obj.width > obj.height else "tall"


def lies(one: Obj, side: str, other: Obj) -> bool:
    """Whether a person would plainly say that ``one`` lies ``side`` of ``other``.

    The middle of each lies outside the other's box along the axis, and the axis is not the lesser one by far.
    """
    if side in ("right of", "below"):
        return lies(other, "left of" if side == "right of" else "above", one)
    k = 0 if side == "left of" else 1
    apart = other.centre[k] - one.centre[k]
    across = abs(other.centre[1 - k] - one.centre[1 - k])
    return one.centre[k] < other.box[k] and other.centre[k] > one.box[k + 2] and apart > 0.6 * across


def only_one_on(scene: Scene, side: str, anchor: Obj, name: str | None = None) -> Obj | None:
    """The single object (of that name, or of any) on that side of ``anchor``, if no other could be meant even loosely.

    Of any name it is answered only where the scene is complete: what is not annotated may lie there too. A painted word
    may be what lies there, so it is never passed over; but nobody would call it a thing.
    """
    if name is None and not scene.complete:
        return None
    key = ("only_one_on", side, anchor.id, name)  # asked once to propose, and once more to tell
    if key not in scene.remembered:
        k, sign = AXIS[side]
        here = anchor.centre[k]
        among = scene.objects if name is None else scene.named(name)
        loose = [o for o in among if o is not anchor and o.name == (name or o.name) and sign * (o.centre[k] - here) > 0]
        plain = len(loose) == 1 and lies(loose[0], side, anchor) and (name or loose[0].kind != "text")
        scene.remembered[key] = loose[0] if plain else None
    return scene.remembered[key]


def beside(scene: Scene, name: str | None = None) -> Iterator[Facts]:
    """Facts of every anchor and side with a single thing (of that name, or of any) there."""
    for _, anchor in scene.unique_phrases():
        for side in SIDES:
            target = only_one_on(scene, side, anchor, name)
            if target is not None:
                yield {"target": target.id, "side": side, "anchor": anchor.id}


def told_beside(scene: Scene, facts: Facts) -> tuple[str, Obj, Obj] | None:
    """(phrase of the anchor, anchor, target) of such facts, or None where the scene does not bear them out."""
    anchor = scene.by_id(facts["anchor"])
    phrase = anchor and scene.phrase_for(anchor)
    target = phrase and only_one_on(scene, facts["side"], anchor, facts.get("name"))
    return (phrase, anchor, target) if target and target.id == facts["target"] else None


def missing(scene: Scene, rng: random.Random) -> str:
    """A phrase for something that is not there; a near miss (right shape, other colour) where one can be made."""
    shapes = [o for o in scene.objects if "colour" in o.attributes and scene.complete]  # else: perhaps not written down
    if shapes and rng.random() < 0.6:
        there = {o.phrase for o in shapes}
        near = [f"{c}{o.between}{o.name}" for o in shapes for c in scene.colours]
        near = [phrase for phrase in near if phrase not in there]
        if near:
            return rng.choice(near)
    there = {o.name for o in scene.objects}
    absent = [n for n in scene.vocabulary if n not in there]
    return rng.choice(absent) if absent else ""


def is_missing(scene: Scene, phrase: str) -> bool:
    """Whether nothing in the scene is called so, by name or by colour and name; names only of what could be told."""
    if scene.named(phrase):
        return False
    shapes = [o for o in scene.objects if "colour" in o.attributes and scene.complete]
    near = {f"{c}{o.between}{o.name}" for o in shapes for c in scene.colours}
    return phrase in near or phrase in scene.vocabulary


def names_of(scene: Scene) -> list[str]:
    """The names in the picture, in the order of its objects, each once."""
    return list(dict.fromkeys(o.name for o in scene.objects))


def has_words(scene: Scene) -> bool:
    """Whether words are painted on the picture: some would count them among the things that are there, some not."""
    return any(obj.kind == "text" for obj in scene.objects)


def among(scene: Scene, name: str | None) -> list[Obj]:
    """All objects of a name; of any name (None) only where the scene is complete and all are things, else nothing."""
    if name is None:
        return scene.objects if scene.complete and not has_words(scene) else []
    return [o for o in scene.objects if o.name == name]


def every(scene: Scene, name: str | None) -> list[Obj]:
    """All objects of a name (None: of any) where none can be missing, to be counted or ranked; else nothing."""
    return among(scene, name) if scene.exhaustive else []


def places(count: int, first: int = 0) -> str:
    """Placeholders of so many boxes in a row, numbered from ``first``."""
    return " ".join(f"{{box:{k}}}" for k in range(first, first + count))


def left_to_right(scene: Scene, name: str) -> list[Obj]:
    """All objects of a name, in the order of their middles; nothing where some may be missing."""
    return sorted(scene.named(name), key=lambda o: o.centre) if scene.exhaustive else []


def found_by(scene: Scene, facts: Facts, key: str = "target") -> tuple[str, Obj] | None:
    """(shortest phrase, object) of the id under ``key``, or None when no phrase means it alone."""
    obj = scene.by_id(facts[key])
    phrase = scene.phrase_for(obj) if obj else ""
    return (phrase, obj) if phrase else None


# Sentences about one thing, about two, or about all of one name: `where`, `measure` and their like share this form.


def some_of(scene: Scene, rng: random.Random, known: dict[int, object]) -> Iterator[Facts]:
    """One question a picture: of one thing, of two, or of each of one name; only of things in ``known`` (by id)."""
    sure = [o.id for _, o in scene.unique_phrases() if o.id in known]
    rng.shuffle(sure)
    choices: list[Facts] = [{"form": form, "of": sure[:k]} for k, form in ((1, "one"), (2, "two")) if len(sure) >= k]
    name = rng.choice(scene.objects).name if scene.objects else ""
    found = left_to_right(scene, name)
    if found and all(o.id in known for o in found):
        choices.append({"form": "each", "of": [o.id for o in found]})
    if choices:
        yield rng.choice(choices)


def told_of_some(scene: Scene, facts: Facts, known: dict[int, str], say: Say) -> Draft | None:
    """Put such facts into words; ``known`` is what to say of each thing, by id, in the language."""
    of = [scene.by_id(k) for k in facts["of"]]
    if None in of or any(o.id not in known for o in of):
        return None
    if facts["form"] == "each":
        name = of[0].name
        if [o.id for o in left_to_right(scene, name)] != facts["of"]:
            return None
        said = say("between").join(known[o.id] for o in of)
        key = "many" if len(of) > 1 else "single"
        return Draft(question=say("each", s=name), answer=say(key, n=len(of), s=name, v=said))
    phrases = [scene.phrase_for(o) for o in of]
    if not all(phrases):
        return None
    answer = say.pack.between_sentences.join(
        say("sentence", p=p, v=known[o.id]) for p, o in zip(phrases, of, strict=True)
    )
    return Draft(question=say(facts["form"], p=phrases[0], q=phrases[-1]), answer=answer)
