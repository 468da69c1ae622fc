"""Where a thing is, in words of coarse place: five rows and five columns, asked only well inside one."""

from synth.tasks.base import Draft, phrasing, task

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


@task("where", kind="understanding")
def where(scene, rng, split):
    drafts = []
    for phrase, obj in scene.unique_phrases():
        column, row = _band(obj.centre[0] / scene.width), _band(obj.centre[1] / scene.height)
        if column is not None and row is not None:
            question = phrasing(rng, split, _SEEN, _UNSEEN).format(p=phrase)
            drafts.append(Draft(question=question, answer=f"{_ROWS[row]} {_COLUMNS[column]}"))
    return drafts
