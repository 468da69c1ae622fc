"""Several facts of one thing in a list, in the order asked: an answer whose every place must look at the picture.

A base that only ever looks before its answer begins cannot be taught boxes by experts alone: they do not move
attention. Place and extent are never asked together with all their numbers: no list amounts to a box.
"""

from synth.tasks.base import Draft, form_of, listing, phrasing, task
from synth.tasks.measure import tens
from synth.tasks.where import band_words

_SEEN = ("Tell me the {f} of the {p}.", "What are the {f} of the {p}?")
_UNSEEN = ("Say the {f} of the {p}.",)


def _known(scene, obj) -> dict[str, str]:
    """What can plainly be said of the thing, by the word it is asked with."""
    row, column = band_words(scene, obj)
    facts = {"row": row, "column": column, **{word: obj.attributes.get(word) for word in ("size", "colour")}}
    facts["form"] = form_of(obj)
    facts["width"] = tens(obj.width / scene.width)
    facts["height"] = tens(obj.height / scene.height)
    return {word: str(said) for word, said in facts.items() if said}


@task("facts", kind="understanding")
def facts(scene, rng, split):
    """Two to four facts of every thing that has them; numbers never of both axes beside both words of place."""
    drafts = []
    for phrase, obj in scene.unique_phrases():
        known = _known(scene, obj)
        words = rng.sample(sorted(known), min(rng.randint(2, 4), len(known)))
        if {"row", "column", "width", "height"} <= set(words):
            words.remove("width")
        if len(words) < 2:
            continue
        question = phrasing(rng, split, _SEEN, _UNSEEN).format(f=listing(words), p=phrase)
        drafts.append(Draft(question=question, answer=f"The {phrase}: [{', '.join(known[w] for w in words)}]."))
    return drafts
