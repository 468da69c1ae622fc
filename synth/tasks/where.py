"""Where a thing is, in words of coarse place: five rows and five columns, asked only well inside one."""

from synth.tasks.base import Draft, in_sentences, phrasing, task

_SEEN = ("Where is the {p}?", "In which part is the {p}?", "Tell me where the {p} is.")
_UNSEEN = ("Where do you see the {p}?", "Name the part where the {p} is.")
_ROWS = ("top", "upper", "middle", "lower", "bottom")
_COLUMNS = ("far left", "left", "centre", "right", "far right")
_EDGES = (0.27, 0.42, 0.58, 0.73)  # of the side: things are as large as a cell, so their middles crowd inwards
_MARGIN = 0.02


def _band(value: float) -> int | None:
    if any(abs(value - e) < _MARGIN for e in _EDGES):
        return None
    return sum(value > e for e in _EDGES)


def band_words(scene, obj) -> tuple[str, str]:
    """The words for the row and the column of the thing's middle; nothing where one is doubtful."""
    column, row = _band(obj.centre[0] / scene.width), _band(obj.centre[1] / scene.height)
    return "" if row is None else _ROWS[row], "" if column is None else _COLUMNS[column]


def _part(scene, obj) -> str:
    row, column = band_words(scene, obj)
    return f"{row} {column}" if row and column else ""


@task("where", kind="understanding", closed=True)
def where(scene, rng, split):
    return [
        Draft(question=phrasing(rng, split, _SEEN, _UNSEEN).format(p=phrase), answer=_part(scene, obj), about=(phrase,))
        for phrase, obj in scene.unique_phrases()
        if _part(scene, obj)
    ]


@task("places", kind="understanding")
def places(scene, rng, split):
    """The same in sentences."""
    parts = {o.id: f"at the {_part(scene, o)}" for o in scene.objects if _part(scene, o)}
    return in_sentences(
        scene, rng, split, parts, "The {p} is {v}.", ", ",
        one=(("Say where the {p} is.", "In a sentence, where is the {p}?"), ("Say in which part the {p} is.",)),
        two=(("Say where the {p} and the {q} are.",), ("Where are the {p} and the {q}?",)),
        each=(("Say where each {s} is.",), ("Where is each {s}?",)),
    )  # fmt: skip
