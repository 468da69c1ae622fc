"""Several facts of one thing in a list, in the order asked: an answer whose every place must look at the picture.

A base that only ever looks before its answer begins cannot be taught boxes by experts alone: they do not move
attention. Place and extent are never asked together with all their numbers: no list amounts to a box.
"""

from synth.tasks.base import Draft, task
from synth.tasks.measure import tens
from synth.tasks.space import form_of, found_by
from synth.tasks.where import bands

_A_BOX = {"row", "column", "width", "height"}


def _known(scene, obj) -> dict[str, str | int]:
    """What can plainly be said of the thing, by the term it is asked with; attributes are words of the language."""
    row, column = bands(scene, obj)
    known = {"row": row, "column": column, **{term: obj.attributes.get(term) for term in ("size", "colour")}}
    known["form"] = form_of(obj)
    known["width"], known["height"] = tens(obj.width / scene.width), tens(obj.height / scene.height)
    return {term: said for term, said in known.items() if said}


def _propose(scene, rng):
    """Two to four facts of every thing that has them; numbers never of both axes beside both words of place."""
    for _, obj in scene.unique_phrases():
        known = _known(scene, obj)
        terms = rng.sample(sorted(known), min(rng.randint(2, 4), len(known)))
        if _A_BOX <= set(terms):
            terms.remove("width")
        if len(terms) >= 2:
            yield {"target": obj.id, "asked": terms}


@task("facts", kind="understanding", propose=_propose)
def facts(scene, facts, say):
    if not (found := found_by(scene, facts)):
        return None
    phrase, obj = found
    known, terms = _known(scene, obj), facts["asked"]
    if len(terms) < 2 or not set(terms) <= set(known) or _A_BOX <= set(terms):
        return None
    said = [known[t] if t in ("size", "colour") else _word(known[t], say) for t in terms]
    question = say("question", f=[say.word(term) for term in terms], p=phrase)
    return Draft(question=question, answer=say("answer", p=phrase, v=", ".join(said)))


def _word(value, say):
    return str(value) if isinstance(value, int) else say.word(value)
