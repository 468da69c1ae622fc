"""Name what is seen, without boxes: colour, shape, size, form, what lies beside, what lies behind."""

from synth.tasks.base import SIDES, Draft, form_of, only_one_on, phrasing, task


@task("colour", kind="understanding", closed=True)
def colour(scene, rng, split):
    seen = (
        "What colour is the {n}?", "Which colour has the {n}?", "Name the colour of the {n}.",
        "Tell me the colour of the {n}.",
    )  # fmt: skip
    unseen = ("Which colour is the {n}?", "Tell me what colour the {n} has.")
    return [
        Draft(
            question=phrasing(rng, split, seen, unseen).format(n=o.name), answer=o.attributes["colour"], about=(o.name,)
        )
        for o in scene.objects
        if "colour" in o.attributes and len(scene.named(o.name)) == 1
    ]


@task("shape", kind="understanding", closed=True)
def shape(scene, rng, split):
    coloured = [o for o in scene.objects if "colour" in o.attributes]
    seen = ("What shape is {c}?", "Which shape is {c}?", "Name the {c} shape.", "Tell me which shape is {c}.")
    unseen = ("Name the shape that is {c}.", "What is the {c} shape?")
    return [
        Draft(
            question=phrasing(rng, split, seen, unseen).format(c=o.attributes["colour"]),
            answer=o.name,
            about=(o.attributes["colour"],),
        )  # fmt: skip
        for o in coloured
        if sum(p.attributes["colour"] == o.attributes["colour"] for p in coloured) == 1
    ]


@task("size", kind="understanding", closed=True)
def size(scene, rng, split):
    seen = ("Is the {p} small or large?", "How big is the {p}?", "Tell me the size of the {p}.")
    unseen = ("Is the {p} large or small?", "What size is the {p}?")
    return [
        Draft(
            question=phrasing(rng, split, seen, unseen).format(p=phrase), answer=obj.attributes["size"], about=(phrase,)
        )
        for phrase, obj in scene.unique_phrases()
        if "size" in obj.attributes
    ]


@task("form", kind="understanding", closed=True)
def form(scene, rng, split):
    """Wide or tall, asked only where it plainly is one of them."""
    seen, unseen = ("Is the {p} wide or tall?", "What form has the {p}, wide or tall?"), ("Is the {p} tall or wide?",)
    return [
        Draft(question=phrasing(rng, split, seen, unseen).format(p=phrase), answer=form_of(obj), about=(phrase,))
        for phrase, obj in scene.unique_phrases()
        if form_of(obj)
    ]


@task("beside", kind="understanding")
def beside(scene, rng, split):
    seen = ("What is {s} the {p}?", "Name the thing {s} the {p}.", "Tell me what is {s} the {p}.")
    unseen = ("What lies {s} the {p}?", "Name what is {s} the {p}.")
    drafts = []
    for phrase, anchor in scene.unique_phrases():
        for side in SIDES:
            target = only_one_on(scene, side, anchor)
            if target:
                question = phrasing(rng, split, seen, unseen).format(s=side, p=phrase)
                drafts.append(Draft(question=question, answer=target.phrase))
    return drafts


@task("background", kind="understanding", closed=True)
def background(scene, rng, split):
    if not scene.background:
        return []
    seen = ("What is in the background?", "What is behind the things?", "Name the background.")
    unseen = ("What do you see in the background?", "Tell me the background.")
    return [Draft(question=phrasing(rng, split, seen, unseen), answer=scene.background)]
