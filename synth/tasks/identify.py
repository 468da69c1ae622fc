"""Name what is seen, without boxes: colour, shape, size, form, what lies beside, what lies behind."""

from synth.tasks.base import Draft, task
from synth.tasks.space import beside as lying_beside
from synth.tasks.space import form_of, found_by, told_beside


def _each(scene, rng):
    return ({"target": obj.id} for _, obj in scene.unique_phrases())


@task("colour", kind="understanding", closed=True, propose=lambda scene, rng: ({"target": o.id} for o in scene.objects))
def colour(scene, facts, say):
    """Of things which their name alone means: the phrase with the colour would tell."""
    obj = scene.by_id(facts["target"])
    if obj is None or "colour" not in obj.attributes or scene.phrase_for(obj) != obj.name:
        return None
    return Draft(question=say("question", n=obj.name), answer=obj.attributes["colour"], about=(obj.name,))


@task("shape", kind="understanding", closed=True, propose=lambda scene, rng: ({"target": o.id} for o in scene.objects))
def shape(scene, facts, say):
    """Of the only thing that is said to have its colour, where things without a colour are drawings, not shapes."""
    obj = scene.by_id(facts["target"])
    colour = obj and obj.attributes.get("colour")
    if (
        not colour
        or obj.kind == "text"
        or not scene.complete
        or sum(o.attributes.get("colour") == colour for o in scene.objects) > 1
    ):
        return None
    return Draft(question=say("question", c=colour), answer=obj.name, about=(colour,))


@task("size", kind="understanding", closed=True, propose=_each)
def size(scene, facts, say):
    found = found_by(scene, facts)
    if not found or "size" not in found[1].attributes:
        return None
    return Draft(question=say("question", p=found[0]), answer=found[1].attributes["size"], about=(found[0],))


@task("form", kind="understanding", closed=True, propose=_each)
def form(scene, facts, say):
    """Wide or tall, asked only where it plainly is one of them."""
    found = found_by(scene, facts)
    if not found or not form_of(found[1]):
        return None
    return Draft(question=say("question", p=found[0]), answer=say.word(form_of(found[1])), about=(found[0],))


@task("beside", kind="understanding", propose=lambda scene, rng: lying_beside(scene))
def beside(scene, facts, say):
    if not (told := told_beside(scene, facts)):
        return None
    phrase, _, target = told
    return Draft(question=say("question", s=say.word(facts["side"]), p=phrase), answer=target.phrase)


@task("background", kind="understanding", closed=True, propose=lambda scene, rng: [{}])
def background(scene, facts, say):
    return Draft(question=say("question"), answer=scene.background) if scene.background else None
