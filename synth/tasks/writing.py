"""Words on the picture: where one is, by what it says, and what one says, by where it is."""

from synth.tasks.base import Draft, task
from synth.tasks.points import at_point, pointed


def _words(scene):
    return [obj for obj in scene.objects if obj.kind == "text"]


def _propose_find(scene, rng):
    texts = [obj.attributes["text"] for obj in _words(scene)]
    return ({"text": text} for text in dict.fromkeys(texts) if texts.count(text) == 1)


@task("find_word", kind="grounding", propose=_propose_find)
def find_word(scene, facts, say):
    """Of words that stand there once."""
    text = facts["text"]
    found = [obj for obj in _words(scene) if obj.attributes["text"] == text]
    if len(found) != 1 or not scene.exhaustive:
        return None
    return Draft(
        question=say("question", t=text), answer=say("answer", t=text), boxes=[found[0].box],
        phrase=say("phrase", t=text),
    )  # fmt: skip


def _propose_read(scene, rng):
    """Every word by its box, and one of them by a point."""
    words = _words(scene)
    yield from ({"target": obj.id} for obj in words)
    yield from pointed(scene, rng, words, most=1)


@task("read_word", kind="grounding", propose=_propose_read)
def read_word(scene, facts, say):
    obj = scene.by_id(facts["target"])
    if obj is None or obj.kind != "text":
        return None
    text = obj.attributes["text"]
    if "point" not in facts:
        return Draft(question=say("question"), answer=say("answer", t=text), question_boxes=[obj.box])
    if not (found := at_point(scene, facts)):
        return None
    return Draft(question=say("of_point"), answer=say("answer", t=text), question_points=[found[1]])
