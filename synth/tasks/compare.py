"""Compare two things: which is larger, which lies further out, and whether one lies on that side of the other."""

import itertools

from synth.tasks.base import SIDES, Draft, lies, phrasing, task

_FURTHER = (("further left", 0, -1), ("further right", 0, 1), ("higher", 1, -1), ("lower", 1, 1))
_MARGIN = 0.12  # of the picture's side: nearer than this a person would hesitate


def _pairs(scene, rng):
    pairs = list(itertools.combinations(scene.unique_phrases(), 2))
    rng.shuffle(pairs)
    return [tuple(rng.sample(pair, 2)) for pair in pairs[:4]]


@task("larger", kind="understanding", closed=True)
def larger(scene, rng, split):
    seen = ("Which is larger, the {p} or the {q}?", "What is larger, the {p} or the {q}?")
    unseen = ("Of the {p} and the {q}, which is larger?",)
    return [
        Draft(
            question=phrasing(rng, split, seen, unseen).format(p=p, q=q),
            answer=p if one.area > two.area else q,
            about=(p, q),
        )
        for (p, one), (q, two) in _pairs(scene, rng)
        if max(one.area, two.area) > 1.7 * min(one.area, two.area)
    ]


@task("further", kind="understanding", closed=True)
def further(scene, rng, split):
    seen = ("Which is {f}, the {p} or the {q}?", "What is {f}, the {p} or the {q}?")
    unseen = ("Of the {p} and the {q}, which is {f}?",)
    drafts = []
    for (p, one), (q, two) in _pairs(scene, rng):
        word, k, sign = rng.choice(_FURTHER)
        apart = sign * (one.centre[k] - two.centre[k])
        if abs(apart) > _MARGIN * (scene.width, scene.height)[k]:
            question = phrasing(rng, split, seen, unseen).format(f=word, p=p, q=q)
            drafts.append(Draft(question=question, answer=p if apart > 0 else q, about=(p, q)))
    return drafts


@task("side", kind="understanding", closed=True)
def side(scene, rng, split):
    seen, unseen = ("Is the {p} {s} the {q}?",), ("Does the {p} lie {s} the {q}?",)
    drafts = []
    for (p, one), (q, two) in _pairs(scene, rng):
        true = [s for s in SIDES if lies(one, s, two)]
        if true:
            opposite = SIDES[SIDES.index(true[0]) ^ 1]
            word, answer = rng.choice(((true[0], "yes"), (opposite, "no")))
            question = phrasing(rng, split, seen, unseen).format(p=p, s=word, q=q)
            drafts.append(Draft(question=question, answer=answer, about=(f"{p} {word}", f"{word} {q}")))
    return drafts
