"""Find a thing by what it is like: "the small star", "the red thing", "the wooden chair"."""

from synth.tasks.base import Draft, task
from synth.tasks.space import every

# Words that exclude each other: a chair said to be metal is not the wooden one; one of which nothing is said may be.
_CONTRARY = (
    ("wooden", "metal", "plastic", "glass", "leather", "brick", "stone", "concrete", "paper"),
    ("open", "closed"), ("empty", "full"), ("wet", "dry"), ("old", "new", "young"), ("long", "short"),
    ("parked", "moving"), ("standing", "sitting", "lying", "walking", "running"), ("striped", "plaid", "spotted"),
    ("big", "little"), ("clean", "dirty"), ("round", "square"), ("dark", "bright"), ("male", "female"),
)  # fmt: skip
_A_PICTURE = 3  # questions at most


def _differs(one, other, term, contrary) -> bool:
    """Whether the other thing is plainly not what the one is; ``contrary`` are the traits that exclude the one's."""
    if term == "trait":
        return any(trait in other.traits for trait in contrary)
    said = other.attributes.get(term)
    return said is not None and said != one.attributes[term]


def _alone(scene, facts, groups=_CONTRARY):
    """The thing the facts mean, if it is plainly the only one like that; ``groups`` are in the scene's language."""
    obj, by, name = scene.by_id(facts["target"]), facts["by"], facts["name"]
    if obj is None or not by or name not in (None, obj.name):
        return None
    if any(term not in obj.attributes for term in by if term != "trait"):
        return None
    trait = facts.get("trait")
    if "trait" in by and trait not in obj.traits:
        return None
    excluded = [word for group in groups if trait in group for word in group if word != trait]
    found = every(scene, name)
    if not found:
        return None
    others = [o for o in found if o is not obj]
    if "trait" in by and any(trait in o.traits for o in others):
        return None
    return obj if all(any(_differs(obj, o, term, excluded) for term in by) for o in others) else None


def _propose(scene, rng):
    """No more words than it takes; colour and name alone are what `find_one` asks with."""
    known = []
    for obj in scene.objects:
        if obj.traits:
            known.append({"target": obj.id, "name": obj.name, "by": ["trait"], "trait": rng.choice(obj.traits)})
        for name in (obj.name, None):
            if len(every(scene, name)) > 1:
                shorter = [{"target": obj.id, "name": name, "by": [term]} for term in ("size", "colour")]
                alone = [facts for facts in shorter if _alone(scene, facts)]
                both = {"target": obj.id, "name": name, "by": ["size", "colour"]}
                known += [f for f in alone if name is None or f["by"] == ["size"]]
                known += [both] * (not alone and _alone(scene, both) is not None)
    return rng.sample(known, min(_A_PICTURE, len(known)))


@task("find_attribute", kind="grounding", propose=_propose)
def find_attribute(scene, facts, say):
    obj = _alone(scene, facts, [tuple(map(say.pack.attribute, group)) for group in _CONTRARY])
    if obj is None or ("trait" in facts["by"] and not say.pack.writes(facts["trait"])):
        return None
    name = facts["name"] or say.word("thing")
    words = {"z": obj.attributes.get("size", ""), "c": obj.attributes.get("colour", ""), "t": facts.get("trait", "")}
    phrase = say("_".join(facts["by"]), n=name, **words)
    return Draft(question=say("question", p=phrase), answer=say("answer", p=phrase), boxes=[obj.box], phrase=phrase)
