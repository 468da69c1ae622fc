"""Find a thing by what it does to another, as the source annotates it: "the man wearing the hat"."""

from synth.tasks.base import Draft, Step, task
from synth.tasks.space import every

# What only one can do to a thing: then it does not matter that relations are rarely annotated in full.
_EXCLUSIVE = ("wearing", "wears")


def _propose(scene, rng):
    return (
        {"subject": r.subject, "predicate": r.predicate, "object": r.object, "asked": asked}
        for r in dict.fromkeys(scene.relations) for asked in ("subject", "object")
    )  # fmt: skip


def _certain(scene, facts, target, exclusive) -> bool:
    """Whether no other thing of the target's name could be meant; ``exclusive`` says that only one can do it."""
    if len(every(scene, target.name)) == 1:
        return True
    if not scene.complete and not exclusive:
        return False
    same = [r for r in scene.relations if r.predicate == facts["predicate"]]
    anchor_key, anchor_id = (
        ("object", facts["object"]) if facts["asked"] == "subject" else ("subject", facts["subject"])
    )
    others = {getattr(r, facts["asked"]) for r in same if getattr(r, anchor_key) == anchor_id} - {target.id}
    return not any(o.id in others and o.name == target.name for o in scene.objects)


@task("predicate", kind="grounding", propose=_propose)
def predicate(scene, facts, say):
    """The other thing is one that a phrase means alone, and is found first; else its box is shown.

    It is shown only where one thing at most can do that to it: its name may then be that of things nobody listed.
    """
    stated = (facts["subject"], facts["predicate"], facts["object"])
    if not any((r.subject, r.predicate, r.object) == stated for r in scene.relations) or stated[0] == stated[2]:
        return None
    asked, known = facts["asked"], "object" if facts["asked"] == "subject" else "subject"
    target, thing = scene.by_id(facts[asked]), scene.by_id(facts[known])
    exclusive = asked == "subject" and facts["predicate"] in map(say.pack.predicate, _EXCLUSIVE)
    if target is None or thing is None or not _certain(scene, facts, target, exclusive):
        return None
    shown = exclusive and not scene.phrase_for(thing)
    anchor = thing.name if shown else scene.phrase_for(thing)
    if not anchor:
        return None
    subject = target.name if asked == "subject" else anchor
    does = say.pack.word.verb(facts["predicate"], subject, asked)
    if not does or not say.pack.writes(does):
        return None
    phrase = say(asked, n=target.name, q=anchor, r=does)
    asked_of = say("shown", n=target.name, q=anchor, r=does) if shown else phrase
    return Draft(
        question=say("question", p=asked_of), question_boxes=[thing.box] if shown else [],
        steps=[Step(text=say("anchor", q=anchor), boxes=[thing.box], objects=[anchor])],
        answer=say("answer", p=phrase), boxes=[target.box], phrase=phrase,
    )  # fmt: skip
