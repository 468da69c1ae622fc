"""What may be said of where things lie, of their form, and of what is not there: with margins a person would agree to.

All margins are our choice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from synth.languages import Say
from synth.scene import Obj, Scene
from synth.tasks.base import Draft, Facts

SIDES = ("left of", "right of", "above", "below")
AXIS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
_FORM = 1.3  # how many times longer the longer side must be for a person to say "wide" or "tall"


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

    Where more may lie there than is listed (see ``every``) there is none. A painted word may be what lies there, so it
    is never passed over; but nobody would call it a thing.
    """
    key = (side, name)
    if key not in scene.remembered:
        scene.remembered[key] = _outermost(scene, side, name)
    first, reach, next_reach = scene.remembered[key]
    k, sign = AXIS[side]
    # One alone has its middle beyond the anchor's: the outermost has, and the next one has not.
    if not reach > sign * anchor.centre[k] >= next_reach or (name is None and first.kind == "text"):
        return None
    return first if lies(first, side, anchor) else None


def _outermost(scene: Scene, side: str, name: str | None) -> tuple[Obj | None, float, float]:
    """The thing (of that name, or of any) whose middle lies furthest to that side, how far, and how far the next."""
    k, sign = AXIS[side]
    there = every(scene, name) if name is not None else scene.objects if scene.complete else ()
    found = sorted(there, key=lambda o: sign * o.centre[k], reverse=True)
    reach = [sign * o.centre[k] for o in found[:2]] + [-math.inf] * 2
    return found[0] if found else None, reach[0], reach[1]


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
    shapes = _of_known_colour(scene)
    if shapes and rng.random() < 0.6:
        there = {o.phrase for o in shapes}
        near = [f"{c}{o.between}{o.name}" for o in shapes for c in scene.colours]
        near = [phrase for phrase in near if phrase not in there]
        if near:
            return rng.choice(near)
    there = {o.name for o in scene.objects}
    absent = [n for n in scene.vocabulary if n not in there]
    return rng.choice(absent) if absent else ""


def _of_known_colour(scene: Scene) -> list[Obj]:
    """What could be asked for in another colour: not what the ground may show too, which no vocabulary has."""
    if not scene.complete:  # a colour is perhaps not written down
        return []
    return [o for o in scene.objects if "colour" in o.attributes and o.name in scene.vocabulary]


def is_missing(scene: Scene, phrase: str) -> bool:
    """Whether nothing in the scene is called so, by name or by colour and name; names only of what could be told."""
    if scene.named(phrase):
        return False
    near = {f"{c}{o.between}{o.name}" for o in _of_known_colour(scene) for c in scene.colours}
    return phrase in near or phrase in scene.vocabulary


def names_of(scene: Scene) -> list[str]:
    """The names in the picture, in the order of its objects, each once."""
    return list(scene.by_name)


def has_words(scene: Scene) -> bool:
    """Whether words are painted on the picture: some would count them among the things that are there, some not."""
    return any(obj.kind == "text" for obj in scene.objects)


def every(scene: Scene, name: str | None) -> list[Obj]:
    """All objects of a name (None: of any) where none can be missing, to be counted or told apart; else nothing."""
    if name is None:
        return scene.objects if scene.complete and not has_words(scene) else []
    return scene.by_name.get(name, []) if scene.exhaustive else []


def places(count: int, first: int = 0, of: str = "box") -> str:
    """Placeholders of so many boxes (or masks) in a row, numbered from ``first``."""
    return " ".join(f"{{{of}:{k}}}" for k in range(first, first + count))


def left_to_right(scene: Scene, name: str) -> list[Obj]:
    """All objects of a name, in the order of their middles; nothing where some may be missing."""
    return sorted(every(scene, name), key=lambda o: o.centre)


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
