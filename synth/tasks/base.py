"""What a task is: a named way to ask about a scene, kept in one table."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from synth.scene import Box, Obj, Scene

KINDS = ("grounding", "understanding")
UNSEEN = "unseen"  # the split that only uses phrasings which no other split has


@dataclass(kw_only=True, slots=True)
class Step:
    """One sentence of a stepwise answer; ``{box:k}`` in the text is the k-th of ``boxes``."""

    text: str
    boxes: list[Box] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class Draft:
    """A question about one scene with its verified answer; ``boxes`` are those the answer speaks of.

    ``about`` are the things the question names, in their order: what ``balance=true`` evens the answers of a closed
    task over.
    """

    question: str
    answer: str
    steps: list[Step] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    phrase: str = ""
    about: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A registered way of asking: ``ask(scene, rng, split)`` returns every draft the scene can carry, perhaps none.

    ``closed`` says that there are few answers, so that the question alone might tell which; ``balance=true`` thins
    such tasks.
    """

    name: str
    kind: str
    ask: Callable[[Scene | None, random.Random, str], list[Draft]]
    needs_image: bool = True
    closed: bool = False


TASKS: dict[str, Task] = {}


def task(name: str, *, kind: str, needs_image: bool = True, closed: bool = False):
    """Register the decorated function as task ``name``; a name is taken once only."""
    if kind not in KINDS:
        raise ValueError(f"task {name!r}: kind must be 'grounding' or 'understanding', not {kind!r}")
    if name in KINDS:
        raise ValueError(f"a task cannot be called {name!r}: readers of records take that for all tasks of the kind")

    def register(ask: Callable[[Scene | None, random.Random, str], list[Draft]]):
        if name in TASKS:
            raise ValueError(f"task {name!r} is registered twice")
        TASKS[name] = Task(name=name, kind=kind, ask=ask, needs_image=needs_image, closed=closed)
        return ask

    return register


def phrasing(rng: random.Random, split: str, seen: Sequence[str], unseen: Sequence[str]) -> str:
    """Pick a wording; the split "unseen" alone gets those that training never shows."""
    return rng.choice(unseen if split == UNSEEN else seen)


def a(phrase: str) -> str:
    """The phrase with its indefinite article."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def plural(name: str) -> str:
    """Regular English plurals of the last word."""
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def listing(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


_FORM = 1.3  # how many times longer the longer side must be for a person to say "wide" or "tall"


def form_of(obj: Obj) -> str:
    """ "wide" or "tall", or nothing where it is neither plainly."""
    if max(obj.width, obj.height) <= _FORM * min(obj.width, obj.height):
        return ""
    return "wide" if obj.width > obj.height else "tall"


Wordings = tuple[Sequence[str], Sequence[str]]  # seen, unseen


def in_sentences(
    scene: Scene, rng: random.Random, split: str, known: dict[int, str], sentence: str, between: str,
    one: Wordings, two: Wordings, each: Wordings,
) -> list[Draft]:  # fmt: skip
    """Say something of one thing, of two, or of all of one name, left to right: one such question a picture.

    Args:
        known: what to say, by the id of the thing; a thing without an entry is doubtful and not asked about.
        sentence: with ``{p}`` for the thing and ``{v}`` for what is said of it.
        between: what stands between the values of a list.
        one, two, each: wordings with ``{p}``, with ``{p}`` and ``{q}``, and with ``{s}`` for a name.
    """
    sure = [(p, known[o.id]) for p, o in scene.unique_phrases() if o.id in known]
    rng.shuffle(sure)
    drafts = []
    for wordings, count in ((one, 1), (two, 2)):
        if len(sure) >= count:
            question = phrasing(rng, split, *wordings).format(p=sure[0][0], q=sure[count - 1][0])
            answer = " ".join(sentence.format(p=p, v=v) for p, v in sure[:count])
            drafts.append(Draft(question=question, answer=answer))
    name = rng.choice(scene.objects).name if scene.objects else ""
    found = sorted(scene.named(name), key=lambda o: o.centre)
    if found and all(o.id in known for o in found):
        things = name if len(found) == 1 else plural(name)
        answer = f"{len(found)} {things}: {between.join(known[o.id] for o in found)}."
        drafts.append(Draft(question=phrasing(rng, split, *each).format(s=name), answer=answer))
    return rng.sample(drafts, min(1, len(drafts)))


SIDES = ("left of", "right of", "above", "below")
_AXIS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}


def lies(one: Obj, side: str, other: Obj) -> bool:
    """Whether a person would plainly say that ``one`` lies ``side`` of ``other`` (our choice of margins).

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

    Of any name it is answered only where the scene is complete: what is not annotated may lie there too.
    """
    if name is None and not scene.complete:
        return None
    k, sign = _AXIS[side]
    among = [o for o in scene.objects if o is not anchor and name in (None, o.name)]
    loose = [o for o in among if sign * (o.centre[k] - anchor.centre[k]) > 0]
    return loose[0] if len(loose) == 1 and lies(loose[0], side, anchor) else None


def missing(scene: Scene, rng: random.Random) -> str:
    """A phrase for something that is not there; a near miss (right shape, other colour) where one can be made."""
    shapes = [o for o in scene.objects if "colour" in o.attributes]
    if shapes and rng.random() < 0.6:
        there = {o.phrase for o in shapes}
        colours = sorted({"red", "orange", "yellow", "green", "blue", "purple", "white", "black"})
        near = [f"{c} {o.name}" for o in shapes for c in colours if f"{c} {o.name}" not in there]
        if near:
            return rng.choice(near)
    there = {o.name for o in scene.objects}
    absent = [n for n in scene.vocabulary if n not in there]
    return rng.choice(absent) if absent else ""
