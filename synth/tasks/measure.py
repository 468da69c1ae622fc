"""How wide and tall things are, in percent of the picture's sides to the nearest ten: extent, but never a place.

A size is written `[30, 40]`: the tokens that boxes will be written with get a real use about what is seen.
"""

from synth.tasks.base import Draft, in_sentences, phrasing, task

_WORDS = (("wide", "width"), ("tall", "height"))
_SEEN = ("How {a} is the {p}, in percent?", "What is the {n} of the {p}, in percent?", "Tell me how {a} the {p} is.")
_UNSEEN = ("In percent, how {a} is the {p}?", "Tell me the {n} of the {p}, in percent.")
_MARGIN = 3.5  # percent: asked only this close to a multiple of ten, so that the answer is plain


def tens(share: float) -> int | None:
    """The share in percent to the nearest ten; None where it is doubtful, or nothing."""
    nearest = 10 * round(10 * share)
    return nearest if nearest and abs(100 * share - nearest) <= _MARGIN else None


@task("measure", kind="understanding", closed=True)
def measure(scene, rng, split):
    """Of one thing a picture."""
    drafts = []
    for phrase, obj in scene.unique_phrases():
        for (adjective, noun), share in zip(_WORDS, (obj.width / scene.width, obj.height / scene.height), strict=True):
            if tens(share):
                question = phrasing(rng, split, _SEEN, _UNSEEN).format(a=adjective, n=noun, p=phrase)
                drafts.append(Draft(question=question, answer=f"{tens(share)} percent", about=(f"{noun} of {phrase}",)))
    return rng.sample(drafts, min(1, len(drafts)))


@task("sizes", kind="understanding")
def sizes(scene, rng, split):
    """Width and height as a pair."""
    pairs = {o.id: [tens(o.width / scene.width), tens(o.height / scene.height)] for o in scene.objects}
    return in_sentences(
        scene, rng, split, {k: str(pair) for k, pair in pairs.items() if all(pair)}, "The {p} is of size {v}.", " ",
        one=(
            ("Tell me the size of the {p}.", "What are the width and height of the {p}?"),
            ("What is the size of the {p}, in numbers?",),
        ),
        two=(("Tell me the sizes of the {p} and the {q}.",), ("What are the sizes of the {p} and the {q}?",)),
        each=(("Tell me the size of each {s}.",), ("What is the size of each {s}?",)),
    )  # fmt: skip
