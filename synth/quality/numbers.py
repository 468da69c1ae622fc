"""Every number of a report, ready for JSON, and the warnings that follow from them."""

from __future__ import annotations

from typing import Any

from synth.quality.across import look_alikes
from synth.quality.blind import blind
from synth.quality.blind_box import blind_box
from synth.quality.gather import Gathered
from synth.quality.near import THRESHOLD
from synth.quality.tables import Tables
from synth.record import ANY_PLACE
from synth.tasks import TASKS

POINTS = 5.0  # what the question alone may gain over chance in a task with closed answers
_OVER_EVEN = 0.10  # a closed task's commonest answer may exceed its even share by so much
_FEW = 50  # a task that synth does not know counts as closed with at most so many different answers
_HELD_OUT = 400  # with fewer held-out questions five points over chance are no more than luck
_CROWDED = 0.5  # share of the boxes in one cell of nine


def numbers(tables: Tables, found: Gathered, *, looks: bool = True, threshold: int = THRESHOLD) -> dict[str, Any]:
    """Return the whole content of ``report.json``."""
    tasks = {name: _task(found, name) for name in sorted(found.tasks)}
    content = {
        "folder": tables.folder.name,
        "records": sum(t.records for t in found.tasks.values()),
        "pictures": dict(sorted(found.pictures.items())),
        "splits": {name: _split(entry) for name, entry in sorted(tables.splits.items())},
        "kinds": _falling(found.kinds), "sources": _falling(found.sources),
        "said": {name: _falling(counter) for name, counter in found.said.items() if counter},
        "licences": {
            name: {"records": n, "pictures": found.picture_licences[name]} for name, n in found.licences.most_common()
        },
        "objects_per_picture": {str(k): n for k, n in sorted(found.objects_per_picture.items())},
        "names": found.names.summary(), "objects": found.object_places.summary(),
        "look_alikes": look_alikes(tables, found, threshold) if looks else None,
        "tasks": tasks,
    }  # fmt: skip
    return {**content, "warnings": warnings(content)}


def warnings(content: dict) -> list[str]:
    """Return in plain words what a reader should know before training on the data.

    Answers with a box or a mask are as many as those, however alike their words.
    """
    said = []
    for name, task in content["tasks"].items():
        answers, guess = task["answers"], task["blind"]
        share, kinds = answers["largest_share"], task["answers_that_count"]
        allowed = 1 / kinds + _OVER_EVEN if kinds > 1 else 0.0
        if task["closed"] and answers["top"] and share > allowed:
            said.append(
                f"{name}: the answer can be guessed: {answers['top'][0][0]!r} is the answer to {share:.0%} of the "
                f"questions{f' ({1 / kinds:.0%} would be even)' if kinds > 1 else ''}"
            )
        elif not task["closed"] and share > _CROWDED and not ANY_PLACE.search(answers["top"][0][0]):
            said.append(f"{name}: {answers['top'][0][0]!r} is the answer to {share:.0%} of the questions")
        if task["closed"] and guess and guess["held_out"] >= _HELD_OUT and guess["points_over_chance"] > POINTS:
            said.append(
                f"{name}: the question alone tells too much: guessing without the picture is right on "
                f"{guess['best']:.0%} of the questions, {guess['points_over_chance']:.0f} points over chance"
            )
        cells = task["places"]["cells_evenness"]["largest_share"]
        if cells > _CROWDED:
            said.append(f"{name}: {cells:.0%} of the boxes have their middle in one ninth of the picture")
    alike = content["look_alikes"]
    for pair, n in (alike["across"] if alike else {}).items():
        said.append(f"{n} pairs of pictures of the splits {pair} look alike")
    if alike and alike["unreadable"]:
        said.append(f"{alike['unreadable']} pictures are linked or unreadable and were not compared")
    return said


def _task(found: Gathered, name: str) -> dict:
    tally = found.tasks[name]
    few = not tally.answers.beyond and len(tally.answers.of) <= _FEW
    closed = TASKS[name].closed if name in TASKS else few
    guess, place = None, None
    examples, boxes = found.examples.get(name, ([], [])), found.box_examples.get(name, ([], []))
    if all(examples) and (closed or tally.kind == "understanding"):
        fitted = blind(*examples)
        guess = {
            "fitted": fitted.fitted, "held_out": fitted.held_out, "answers": fitted.answers,
            "chance": round(fitted.chance, 4), "majority": round(fitted.majority, 4),
            "per_question": round(fitted.per_question, 4), "naive_bayes": round(fitted.naive_bayes, 4),
            "best": round(fitted.best, 4), "points_over_chance": round(fitted.points_over_chance, 2),
        }  # fmt: skip
    if all(boxes):
        tried = blind_box(*boxes)
        place = {
            "fitted": tried.fitted, "held_out": tried.held_out, "median": round(tried.median, 4),
            "per_phrase": round(tried.per_phrase, 4), "constant": round(tried.constant, 4),
            "best": round(tried.best, 4),
        }  # fmt: skip
    return {**tally.summary(), "closed": closed, "blind": guess, "blind_box": place}


def _split(entry: dict) -> dict:
    kept = ("pictures", "counts", "refused", "thinned", "quarantined")
    return {name: entry[name] for name in kept if name in entry}


def _falling(counts) -> dict:
    return dict(counts.most_common())
