"""How wide and tall things are, in percent of the picture's sides to the nearest ten: extent, but never a place.

A size is written `[30, 40]`: the tokens that boxes will be written with get a real use about what is seen.
"""

from synth.tasks.base import Draft, phrasing, plural, task

_WORDS = (("wide", "width"), ("tall", "height"))
_SEEN = ("How {a} is the {p}, in percent?", "What is the {n} of the {p}, in percent?", "Tell me how {a} the {p} is.")
_UNSEEN = ("In percent, how {a} is the {p}?", "Tell me the {n} of the {p}, in percent.")
_MARGIN = 3.5  # percent: asked only this close to a multiple of ten, so that the answer is plain


def tens(share: float) -> int | None:
    """The share in percent to the nearest ten; None where it is doubtful, or nothing."""
    nearest = 10 * round(10 * share)
    return nearest if nearest and abs(100 * share - nearest) <= _MARGIN else None


@task("measure", kind="understanding")
def measure(scene, rng, split):
    """Of one thing a picture."""
    drafts = []
    for phrase, obj in scene.unique_phrases():
        for (adjective, noun), share in zip(_WORDS, (obj.width / scene.width, obj.height / scene.height), strict=True):
            if tens(share):
                question = phrasing(rng, split, _SEEN, _UNSEEN).format(a=adjective, n=noun, p=phrase)
                drafts.append(Draft(question=question, answer=f"{tens(share)} percent"))
    return rng.sample(drafts, min(1, len(drafts)))


@task("sizes", kind="understanding")
def sizes(scene, rng, split):
    """Width and height of one thing, of two, and of all of one name; one such question a picture."""
    known = {}
    for obj in scene.objects:
        found = [tens(obj.width / scene.width), tens(obj.height / scene.height)]
        if all(found):
            known[obj.id] = found
    sure = [(p, known[o.id]) for p, o in scene.unique_phrases() if o.id in known]
    rng.shuffle(sure)
    drafts = []
    for phrase, size in sure[:1]:
        seen, unseen = ("Tell me the size of the {p}.",), ("What is the size of the {p}, in numbers?",)
        seen += ("What are the width and height of the {p}?",)
        question = phrasing(rng, split, seen, unseen).format(p=phrase)
        drafts.append(Draft(question=question, answer=f"The {phrase} is of size {size}."))
    if len(sure) > 1:
        seen, unseen = ("Tell me the sizes of the {p} and the {q}.",), ("What are the sizes of the {p} and the {q}?",)
        question = phrasing(rng, split, seen, unseen).format(p=sure[0][0], q=sure[1][0])
        drafts.append(Draft(question=question, answer=" ".join(f"The {p} is of size {size}." for p, size in sure[:2])))
    name = rng.choice(scene.objects).name if scene.objects else ""
    all_of_it = sorted(scene.named(name), key=lambda o: o.centre)
    if all_of_it and all(o.id in known for o in all_of_it):
        seen, unseen = ("Tell me the size of each {s}.",), ("What is the size of each {s}?",)
        listed = " ".join(map(str, (known[o.id] for o in all_of_it)))
        drafts.append(
            Draft(
                question=phrasing(rng, split, seen, unseen).format(s=name),
                answer=f"{len(all_of_it)} {name if len(all_of_it) == 1 else plural(name)}: {listed}.",
            )
        )
    return rng.sample(drafts, min(1, len(drafts)))
