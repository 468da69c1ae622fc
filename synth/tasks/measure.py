"""How wide and tall things are, in percent of the picture's sides to the nearest ten: extent, but never a place.

A size is written `[30, 40]`: the tokens that boxes will be written with get a real use about what is seen.
"""

from synth.tasks.base import Draft, task
from synth.tasks.space import found_by, some_of, told_of_some

_MARGIN = 3.5  # percent: asked only this close to a multiple of ten, so that the answer is plain


def tens(share: float) -> int | None:
    """The share in percent to the nearest ten; None where it is doubtful, or nothing."""
    nearest = 10 * round(10 * share)
    return nearest if nearest and abs(100 * share - nearest) <= _MARGIN else None


def _share(scene, obj, axis: str) -> float:
    return obj.width / scene.width if axis == "width" else obj.height / scene.height


def _propose(scene, rng):
    """Of one thing a picture."""
    of = [
        {"target": obj.id, "axis": axis}
        for _, obj in scene.unique_phrases() for axis in ("width", "height") if tens(_share(scene, obj, axis))
    ]  # fmt: skip
    return rng.sample(of, min(1, len(of)))


@task("measure", kind="understanding", closed=True, propose=_propose)
def measure(scene, facts, say):
    if not (found := found_by(scene, facts)):
        return None
    share = tens(_share(scene, found[1], facts["axis"]))
    if not share:
        return None
    about = (f"{facts['axis']} {found[0]}",)
    return Draft(question=say(facts["axis"], p=found[0]), answer=say("answer", n=share), about=about)


def _pairs(scene) -> dict[int, str]:
    pairs = {o.id: [tens(_share(scene, o, "width")), tens(_share(scene, o, "height"))] for o in scene.objects}
    return {k: str(pair) for k, pair in pairs.items() if all(pair)}


@task("sizes", kind="understanding", propose=lambda scene, rng: some_of(scene, rng, _pairs(scene)))
def sizes(scene, facts, say):
    """Width and height as a pair."""
    return told_of_some(scene, facts, _pairs(scene), say)
