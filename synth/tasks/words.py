"""Repeat a sentence of common words, in text alone: it gives the words that answers are written with a real use."""

from synth.render import COLOURS, SHAPES, things
from synth.tasks.base import Draft, phrasing, plural, task

_COMMON = (
    "The", "the", "a", "an", "is", "at", "no", "There", "are", "Found", "found", "Find", "find", "It", "it", "thing",
    "things", "of", "to", "by", "box", "boxes", "count", "Count", "and", "with", "Step", "Point", "Give", "Mark", "out",
    "Locate", "all", "every", "each", "pointing", "name", "left", "right", "above", "below", "what", "its", "Let's",
    "think", "step", "in", "for", "on", "this", "that",
)  # fmt: skip


@task("words", kind="understanding", needs_image=False)
def words(scene, rng, split):
    names = (*things(), *SHAPES)
    known = (*_COMMON, *_COMMON, *names, *map(plural, names), *COLOURS)
    chosen = [rng.choice(known) for _ in range(rng.randint(3, 7))]
    for k in range(1, len(chosen)):
        if rng.random() < 0.25:
            chosen[k] = rng.choice((str(rng.randrange(101)), "Step 1:", "Step 2:", f"[{rng.randrange(101)}]"))
    sentence = " ".join(chosen) + rng.choice((".", ".", ":", ""))
    seen, unseen = ("Say: {s}", "Repeat: {s}", "Do repeat: {s}"), ("Say this: {s}", "Repeat this: {s}")
    question = phrasing(rng, split, seen, unseen).format(s=sentence)
    return [Draft(question=question, answer=sentence)]
