"""Questions that came with the picture, already in words: what a teacher asked about it, step by step."""

from synth.tasks.base import Draft, Step, task


@task("teacher_steps", kind="grounding", propose=lambda scene, rng: ({"asked": k} for k in range(len(scene.questions))))
def teacher_steps(scene, facts, say):
    if not 0 <= facts["asked"] < len(scene.questions):
        return None
    asked = scene.questions[facts["asked"]]
    meant = [[scene.by_id(id) for id in ids] for _, ids in asked.steps]
    if any(obj is None for objects in meant for obj in objects):
        return None
    steps = [
        Step(text=say("step", t=text), boxes=[o.box for o in objects], objects=[o.name for o in objects])
        for (text, _), objects in zip(asked.steps, meant, strict=True)
    ]
    return Draft(question=say("question", q=asked.text), steps=steps, answer=say("answer", a=asked.answer))
