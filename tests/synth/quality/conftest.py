"""Dataset folders of hand-made scenes, written by synth itself."""

import io
import random

import pytest
from PIL import Image, ImageDraw

import synth
from synth.languages import load_pack
from synth.scene import Obj, Scene
from synth.sources import SOURCES, SourceKind
from synth.tasks import TASKS, Draft, Step, Task


def png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


class HandMade:
    """Pictures of 120 x 80 pixels: a red patch at a known box on a ground that differs each time."""

    name = "hand"

    def __init__(self, size=24, licences=("CC0",), pictures=None):
        self.size, self.licences, self.pictures = size, licences, pictures

    def __len__(self):
        return self.size

    def scene(self, index, split, seed):
        rng = random.Random(f"{seed}/{split}/hand/{index}")
        x, y = rng.randrange(80), rng.randrange(50)
        picture = Image.new("RGB", (120, 80), (235, 235, 235))
        pen = ImageDraw.Draw(picture)
        for _ in range(14):
            cx, cy, r = rng.randrange(120), rng.randrange(80), rng.randrange(5, 25)
            pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=(0, rng.randrange(120), rng.randrange(255)))
        pen.rectangle((x, y, x + 29, y + 19), fill=(255, 0, 0))
        if self.pictures and index in self.pictures:
            picture = self.pictures[index]
        return Scene(
            index=index, width=120, height=80, image_bytes=lambda: (png(picture), "png"), source="hand",
            objects=[Obj(id=0, name="patch", box=(x, y, x + 30, y + 20), attributes={"colour": "red"})],
            licence=self.licences[index % len(self.licences)], file=f"{index:03d}.png", vocabulary=("patch", "key"),
        )  # fmt: skip


def parted(ask):
    """A function that returns drafts as the two halves of a task."""

    def propose(scene, rng):
        seed = rng.random()
        return ({"seed": seed, "k": k} for k in range(len(ask(scene, random.Random(seed), ""))))

    return propose, lambda scene, facts, say: ask(scene, random.Random(facts["seed"]), "")[facts["k"]]


@pytest.fixture
def hand_made(monkeypatch):
    """Register a source "hand" and tasks; the returned function makes a folder and gives its manifest."""

    def make(out, *, source=None, tasks=None, **changes):
        made = source or HandMade()
        monkeypatch.setitem(SOURCES, "hand", SourceKind(lambda settings, work: made))
        for name, (kind, ask) in (tasks or {}).items():
            propose, tell = parted(ask)
            task = Task(name=name, kind=kind, propose=propose, tell=tell, closed=name.startswith("closed"))
            monkeypatch.setitem(TASKS, name, task)
            monkeypatch.setitem(load_pack("en").tasks, name, {})
        chosen = {"task": sorted(tasks) if tasks else ["find_one"], "source": "hand", "shard_size": 10, **changes}
        return synth.make(synth.Settings(out=str(out), **chosen))

    return make


def stepwise(scene, rng, split):
    box = scene.objects[0].box
    return [
        Draft(
            question="Where is the patch?", steps=[Step(text="Look at {box:0}.", boxes=[box], objects=["patch"])],
            answer="It is at {box:0}.", boxes=[box], phrase="patch",
        )
    ]  # fmt: skip
