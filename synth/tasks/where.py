"""Where a thing is, in words of coarse place: five rows and five columns, asked only well inside one."""

from synth.tasks.base import Draft, phrasing, plural, task

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


@task("where", kind="understanding")
def where(scene, rng, split):
    return [
        Draft(question=phrasing(rng, split, _SEEN, _UNSEEN).format(p=phrase), answer=_part(scene, obj))
        for phrase, obj in scene.unique_phrases()
        if _part(scene, obj)
    ]


@task("places", kind="understanding")
def places(scene, rng, split):
    """The same in sentences: of one thing, of two, and of all of one name; one such question a picture."""
    sure = [(p, _part(scene, o)) for p, o in scene.unique_phrases() if _part(scene, o)]
    rng.shuffle(sure)
    drafts = []
    for phrase, part in sure[:1]:
        seen, unseen = ("Say where the {p} is.", "In a sentence, where is the {p}?"), ("Say in which part the {p} is.",)
        question = phrasing(rng, split, seen, unseen).format(p=phrase)
        drafts.append(Draft(question=question, answer=f"The {phrase} is at the {part}."))
    if len(sure) > 1:
        seen, unseen = ("Say where the {p} and the {q} are.",), ("Where are the {p} and the {q}?",)
        question = phrasing(rng, split, seen, unseen).format(p=sure[0][0], q=sure[1][0])
        drafts.append(Draft(question=question, answer=" ".join(f"The {p} is at the {part}." for p, part in sure[:2])))
    name = rng.choice(scene.objects).name if scene.objects else ""
    parts = [_part(scene, o) for o in sorted(scene.named(name), key=lambda o: o.centre)]
    if parts and all(parts):
        seen, unseen = ("Say where each {s} is.",), ("Where is each {s}?",)
        question = phrasing(rng, split, seen, unseen).format(s=name)
        things = name if len(parts) == 1 else plural(name)
        listed = ", ".join(f"at the {part}" for part in parts)
        drafts.append(Draft(question=question, answer=f"{len(parts)} {things}: {listed}."))
    return rng.sample(drafts, min(1, len(drafts)))
