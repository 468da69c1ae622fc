"""What a task is: a named way to ask about a scene, kept in one table.

A task is two functions. ``propose`` draws what to ask, as facts: ids of objects and terms, nothing that could be false
by itself. ``tell`` puts facts into words, or returns None where the scene does not bear them out. So the checker needs
no third function: it lets ``tell`` speak again from the stored facts and compares (`synth/check.py`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from synth.languages import Pack, Say
from synth.languages.say import UNSEEN
from synth.masks import can_be_segmented
from synth.scene import Box, Point, Scene
from synth.tasks.difficulty import difficulty

__all__ = ["KINDS", "SEVERAL", "TASKS", "UNSEEN", "Draft", "Facts", "Step", "Task", "task"]

KINDS = ("grounding", "understanding")
SEVERAL = "several"  # in settings: all tasks about several pictures
Shown = Scene | tuple[Scene, ...] | None  # what a task is asked of: a picture, several, or none
Facts = dict  # what a question is about, in JSON: ids of objects, terms such as "left of", words of the language


@dataclass(kw_only=True, slots=True)
class Step:
    """One sentence of a stepwise answer; ``{box:k}`` in the text is the k-th of ``boxes``, which lie in ``picture``.

    ``{mask:k}`` is the mask of what is in that box.
    """

    text: str
    boxes: list[Box] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    picture: int = 0


@dataclass(kw_only=True, slots=True)
class Draft:
    """A question about one scene, or several, with its answer.

    ``boxes`` are those the answer speaks of, as boxes (`{box:k}` in its text) or by the masks of what is in them
    (`{mask:k}`); ``question_boxes`` those the question shows (`{box:k}`), and ``question_points`` the points that it
    shows (`{point:k}`), [x, y] in original pixels. ``picture`` says in which of several pictures, counted from 0,
    ``boxes`` lie; what the question shows lies in the first.
    ``about`` are the things the question names, in their order: what ``balance=true`` evens the answers of a closed
    task over. ``difficulty`` is set for the task, which cannot choose it (`synth/tasks/difficulty.py`).
    """

    question: str
    answer: str
    steps: list[Step] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    phrase: str = ""
    question_boxes: list[Box] = field(default_factory=list)
    question_points: list[Point] = field(default_factory=list)
    about: tuple[str, ...] = ()
    difficulty: int = 1
    picture: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A registered way of asking; see the module's text for ``propose`` and ``tell``.

    ``closed`` says that there are few answers, so that the question alone might tell which; ``balance=true`` thins
    such tasks. A task about several ``pictures`` gets a tuple of so many scenes in place of one. ``masks`` says that
    its answers speak of masks: it is asked only of things whose mask is known, and only with ``masks=true``.
    """

    name: str
    kind: str
    propose: Callable[[Shown, random.Random], Iterable[Facts]]
    tell: Callable[[Shown, Facts, Say], Draft | None]
    needs_image: bool = True
    closed: bool = False
    pictures: int = 1
    masks: bool = False

    def ask(self, scene: Shown, rng: random.Random, split: str, pack: Pack) -> list[tuple[Facts, Draft]]:
        """Return every question that the scene (or tuple of scenes) can carry with its facts, perhaps none.

        ``pack`` has translated it.
        """
        say = Say(pack, self.name, split, rng)
        drafts = ((facts, self.draft(scene, facts, say)) for facts in self.propose(scene, rng))
        told = [(facts, draft) for facts, draft in drafts if draft is not None]
        return [one for one in told if can_be_segmented(scene, one[1])] if self.masks else told

    def draft(self, scene: Shown, facts: Facts, say: Say) -> Draft | None:
        """Return what ``tell`` makes of the facts, with its difficulty; None where the scene does not bear them out."""
        told = self.tell(scene, facts, say)
        if told is None:
            return None
        told.difficulty = difficulty(scene if self.needs_image else None, facts, told)
        return told


TASKS: dict[str, Task] = {}


def task(
    name: str, *, kind: str, propose: Callable[[Shown, random.Random], Iterable[Facts]], needs_image: bool = True,
    closed: bool = False, pictures: int = 1, masks: bool = False,
):  # fmt: skip
    """Register the decorated function as ``tell`` of task ``name``; a name is taken once only."""
    if kind not in KINDS:
        raise ValueError(f"task {name!r}: kind must be 'grounding' or 'understanding', not {kind!r}")
    if name in (*KINDS, SEVERAL):
        raise ValueError(f"a task cannot be called {name!r}: readers of records take that for all tasks of the kind")

    def register(tell: Callable[[Shown, Facts, Say], Draft | None]):
        if name in TASKS:
            raise ValueError(f"task {name!r} is registered twice")
        TASKS[name] = Task(
            name=name, kind=kind, propose=propose, tell=tell, needs_image=needs_image, closed=closed, pictures=pictures,
            masks=masks,
        )  # fmt: skip
        return tell

    return register
