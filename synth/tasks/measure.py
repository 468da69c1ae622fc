"""How wide or tall a thing is, in percent of the picture's side to the nearest five: extent, but never a place."""

from synth.tasks.base import Draft, phrasing, task

_WORDS = (("wide", "width"), ("tall", "height"))
_SEEN = ("How {a} is the {p}, in percent?", "What is the {n} of the {p}, in percent?", "Tell me how {a} the {p} is.")
_UNSEEN = ("In percent, how {a} is the {p}?", "Tell me the {n} of the {p}, in percent.")
_MARGIN = 1.3  # percent: asked only this close to a multiple of five, so that the answer is plain


@task("measure", kind="understanding")
def measure(scene, rng, split):
    drafts = []
    for phrase, obj in scene.unique_phrases():
        for (adjective, noun), share in zip(_WORDS, (obj.width / scene.width, obj.height / scene.height), strict=True):
            answer = 5 * round(20 * share)
            if answer and abs(100 * share - answer) <= _MARGIN:
                question = phrasing(rng, split, _SEEN, _UNSEEN).format(a=adjective, n=noun, p=phrase)
                drafts.append(Draft(question=question, answer=f"{answer} percent"))
    return drafts
