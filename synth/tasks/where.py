"""Where a thing is, in words of coarse place: five rows and five columns, asked only well inside one."""

from synth.tasks.base import Draft, task
from synth.tasks.space import found_by, some_of, told_of_some

_ROWS = ("top", "upper", "middle", "lower", "bottom")
_COLUMNS = ("far left", "left", "centre", "right", "far right")
_EDGES = (0.27, 0.42, 0.58, 0.73)  # of the side: things are as large as a cell, so their middles crowd inwards
_MARGIN = 0.02


def _band(value: float) -> int | None:
    if any(abs(value - e) < _MARGIN for e in _EDGES):
        return None
    return sum(value > e for e in _EDGES)


def bands(scene, obj) -> tuple[str, str]:
    """The terms for the row and the column of the thing's middle; nothing where one is doubtful."""
    column, row = _band(obj.centre[0] / scene.width), _band(obj.centre[1] / scene.height)
    return "" if row is None else _ROWS[row], "" if column is None else _COLUMNS[column]


def _parts(scene) -> dict[int, tuple[str, str]]:
    if "parts" not in scene.remembered:
        scene.remembered["parts"] = {o.id: part for o in scene.objects if all(part := bands(scene, o))}
    return scene.remembered["parts"]


@task(
    "where", kind="understanding", closed=True,
    propose=lambda scene, rng: ({"target": o.id} for _, o in scene.unique_phrases() if o.id in _parts(scene)),
)  # fmt: skip
def where(scene, facts, say):
    found, parts = found_by(scene, facts), _parts(scene)
    if not found or found[1].id not in parts:
        return None
    row, column = map(say.word, parts[found[1].id])
    return Draft(question=say("question", p=found[0]), answer=say("answer", row=row, column=column), about=(found[0],))


@task("places", kind="understanding", propose=lambda scene, rng: some_of(scene, rng, _parts(scene)))
def places(scene, facts, say):
    """The same in sentences."""
    known = {
        k: say("place", row=say.word(row), column=say.word(column)) for k, (row, column) in _parts(scene).items()
    }  # fmt: skip
    return told_of_some(scene, facts, known, say)
