"""Repeat a sentence of common words, in text alone: it gives the words that answers are written with a real use."""

from synth.render import COLOURS, SHAPES, things
from synth.tasks.base import Draft, task


def _propose(scene, rng):
    """Terms of the language by what they are, so that only a pack spells them: one sentence a picture."""
    names = (*things(), *SHAPES)
    chosen = []
    for k in range(rng.randint(3, 7)):
        what = rng.random()
        if k and what < 0.25:
            chosen.append(
                rng.choice((["number", rng.randrange(101)], ["step", 1], ["step", 2], ["box", rng.randrange(101)]))
            )
        else:
            chosen.append(["common", rng.random()] if what < 0.7 else ["name", rng.choice((*names, *COLOURS))])
    yield {"words": chosen, "end": rng.choice((".", ".", ":", ""))}


@task("words", kind="understanding", propose=_propose, needs_image=False)
def words(scene, facts, say):
    common = say.pack.common
    spelled = {
        "common": lambda share: common[int(share * len(common))], "number": str, "box": lambda n: f"[{n}]",
        "name": lambda name: say.pack.names.get(name, name), "step": lambda n: f"Step {n}:",
    }  # fmt: skip
    sentence = say.pack.between_sentences.join(spelled[what](value) for what, value in facts["words"]) + facts["end"]
    return Draft(question=say("question", s=sentence), answer=sentence)
