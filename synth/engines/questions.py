"""Stepwise questions that a teacher proposes: read, tied to the objects that are believed, and compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from synth.engines.client import Dropped
from synth.engines.guards import speaks_to_a_model, strange_signs
from synth.engines.reading import BOX
from synth.record import ANY_PLACE, PLACEHOLDER
from synth.scene import Box, Obj, Question, iou

_LONGEST = 300  # characters of a question or a step
_LONGEST_ANSWER = 100
_MOST_STEPS = 8

Place = Callable[[list[float]], Box | None]  # four written numbers to a box in original pixels


def read_question(written: object, objects: Sequence[Obj], place: Place, min_iou: float, language: str) -> Question:
    """Return the question that a model wrote, its boxes those of ``objects``; raises ``Dropped`` with the reason.

    ``written`` is {"question": text, "steps": [texts with boxes in brackets], "answer": text}.
    """
    if not isinstance(written, dict):
        raise Dropped("question: of another form")
    text, steps, answer = written.get("question"), written.get("steps"), written.get("answer")
    if not (isinstance(text, str) and isinstance(answer, str) and isinstance(steps, list)):
        raise Dropped("question: of another form")
    if not all(isinstance(step, str) for step in steps) or not 1 <= len(steps) <= _MOST_STEPS:
        raise Dropped("question: of another form")
    _check(text, _LONGEST, language)
    _check(answer, _LONGEST_ANSWER, language, digits=True)
    tied = tuple(_tied(step, objects, place, min_iou, language) for step in steps)
    if not any(ids for _, ids in tied):
        raise Dropped("question: no step has a box")
    return Question(text=text.strip(), steps=tied, answer=answer.strip())


def same_answer(one: object, other: object) -> bool:
    """Whether two answers are the same but for case, articles and signs.

    A short answer to a sentence that ends in it counts: "orange" and "The object is orange."
    """
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    short, long = sorted((_bare(one), _bare(other)), key=len)
    return bool(short) and (short == long or (len(short) <= 3 and long[-len(short) :] == short and _plain(long, short)))


def _plain(long: list[str], short: list[str]) -> bool:
    """Whether the longer answer only puts a sentence around the shorter: no negation, no "or" before it."""
    return not set(long[: -len(short)]) & {"no", "not", "or", "never", "neither", "nor", "isn", "aren", "t", "and"}


def _bare(text: str) -> list[str]:
    return [word for word in re.findall(r"\w+", text.lower()) if word not in ("a", "an", "the")]


def _tied(
    text: str, objects: Sequence[Obj], place: Place, min_iou: float, language: str
) -> tuple[str, tuple[int, ...]]:
    """(text with placeholders, ids of the objects they stand for) of a step with written boxes."""
    found: list[Obj] = []

    def tie(match: re.Match) -> str:
        box = place(list(map(float, match.groups())))
        best = max(objects, key=lambda o: iou(o.box, box)) if box else None
        if best is None or iou(best.box, box) < min_iou:
            raise Dropped("question: box of no known object")
        found.append(best)
        return f"{{box:{len(found) - 1}}}"

    if ANY_PLACE.search(text):
        raise Dropped("question: markup")
    tied = BOX.sub(tie, text.strip())
    _check(PLACEHOLDER.sub(" ", tied), _LONGEST, language)
    if len(found) == 1:
        named = {o.name for o in objects if re.search(rf"(?<!\w){re.escape(o.name)}(?!\w)", tied, re.IGNORECASE)}
        if named and found[0].name not in named:
            raise Dropped("question: box of another object")
    return tied, tuple(o.id for o in found)


def _check(text: str, longest: int, language: str, *, digits: bool = False) -> None:
    if not text.strip() or len(text) > longest:
        raise Dropped("question: empty or too long")
    if strange_signs(text):
        raise Dropped("question: markup")
    if not digits and re.search(r"\d", text):
        raise Dropped("question: numbers outside a box")
    if speaks_to_a_model(text, language):
        raise Dropped("question: speaks to a model")
