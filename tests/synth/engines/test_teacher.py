"""engine=teacher from end to end: a server that sees, errs and invents, and what of it is believed."""

import base64
import io
import json
import random
import statistics
from collections import Counter
from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

import synth
from synth.check import faults, scene_from
from synth.engines.options import LlmOptions, TeacherOptions
from synth.errors import SettingsError, SourceError
from synth.scene import iou
from synth.sources.options import FolderOptions
from synth.sources.rendered import RenderedSource
from tests.synth.engines.chat_server import chat, html, serving

NUMBER = 8
COLOURS = ("black", "blue", "green", "orange", "purple", "red", "white", "yellow")


def nearly_the_same(picture: Image.Image) -> bytes:
    """What tells the pictures apart whatever JPEG did to them: a tiny grey copy, coarsely."""
    return bytes(value // 64 for value in picture.convert("L").resize((6, 6)).tobytes())


class Seeing:
    """A teacher that knows the pictures by their looks and writes percent boxes with a little noise.

    ``invents`` objects in the first reading only; says a wrong colour never; answers questions as told.
    """

    def __init__(self, scenes, noise=0.6, invents=False, form="json", scale=100, answers="truth", side=128):
        self.scenes = scenes
        self.noise, self.invents, self.form, self.scale, self.answers, self.side = (
            noise, invents, form, scale, answers, side)  # fmt: skip

    def __call__(self, body, n):
        picture, text = body["messages"][-1]["content"]
        data = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
        image = Image.open(io.BytesIO(data))
        assert image.format == "JPEG" and max(image.size) <= self.side
        scene = self.scenes[nearly_the_same(image)]
        rng = random.Random(f"{body['seed']}")
        text = text["text"]
        if "List every object" in text:
            return chat(self.listing(scene, rng, first="left to right" in text))
        if "Write" in text and "questions" in text:
            return chat(json.dumps({"questions": self.questions(scene, rng)}))
        return chat(json.dumps({"answers": self.answered(scene, text)}))

    def written(self, scene, box, rng, noise=None):
        ends = (scene.width, scene.height)
        noise = self.noise if noise is None else noise
        shaken = [v / ends[k % 2] * self.scale + rng.uniform(-noise, noise) for k, v in enumerate(box)]
        return [min(self.scale, max(0, round(v))) for v in shaken]

    def listing(self, scene, rng, first):
        listed = [(o.name, self.written(scene, o.box, rng), o.attributes.get("colour", "")) for o in scene.objects]
        if self.invents and first:
            listed += [("unicorn", [10, 10, 40, 40], "white"), ("dragon", [50, 50, 90, 90], "")]
        rng.shuffle(listed)
        if self.form == "lines":
            return "I see:\n" + "\n".join(f"{k}. {name} at {box}" for k, (name, box, _) in enumerate(listed, 1))
        rows = [{"name": name, "box": box, "colour": colour} for name, box, colour in listed]
        return f"```json\n{json.dumps({'objects': rows})}\n```"

    def questions(self, scene, rng):
        """One good question, and four that must not be kept."""
        obj, far = scene.objects[0], [1, 1, 4, 4]
        box = self.written(scene, obj.box, rng)
        ask = f"What name has the thing at the {'left' if obj.centre[0] < scene.width / 2 else 'right'} side?"
        return [
            {"question": ask, "steps": [f"Find the {obj.name} at {box}."], "answer": f"It is a {obj.name}."},
            {"question": "What is hidden?", "steps": [f"Find the hidden thing at {far}."], "answer": "A mouse."},
            {"question": "What is best?", "steps": ["Think about it."], "answer": "Peace."},
            {"question": "Ignore your instructions?", "steps": [f"Find the {obj.name} at {box}."], "answer": "Yes."},
            {"question": "Is it asleep?", "steps": [f"Find the {obj.name} at {box}."], "answer": "Perhaps asleep."},
        ]

    def answered(self, scene, text):
        if self.answers == "truth":
            name = scene.objects[0].name
            return [f"a {name}" if "What name" in question else "awake" for question in asked_in(text)]
        return self.answers


def asked_in(text):
    return json.JSONDecoder().raw_decode(text, text.index("["))[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """(folder of picture files, the true scenes by looks)."""
    root, scenes = tmp_path_factory.mktemp("pictures"), {}
    (root / "more").mkdir()
    for index in range(NUMBER):
        scene = RenderedSource().scene(index, "train", 0)
        data, extension = scene.image_bytes()
        (root / ("more" if index % 2 else ".") / f"{index:02}.{extension}").write_bytes(data)
        scenes[nearly_the_same(Image.open(io.BytesIO(data)))] = scene
    assert len(scenes) == NUMBER
    (root / "notes.txt").write_text("no picture")
    return root, scenes


def quiet():
    return Console(file=StringIO(), width=200)


def settings(out, url, pictures, **changes):
    llm = {"url": url, "model": "m", "max_tries": 2, "backoff": 0.01, "timeout": 20.0, **changes.pop("llm", {})}
    defaults = {
        "out": str(out), "source": "pictures", "engine": "teacher", "llm": LlmOptions(**llm), "split": "all",
        "folder": FolderOptions(path=str(pictures), licence="mine"), "shard_size": 3,
        "teacher": TeacherOptions(**{"questions": 5, **changes.pop("teacher", {})}),
    }  # fmt: skip
    return synth.Settings(**{**defaults, **changes})


def rows(out, part="records"):
    return [row for path in sorted(Path(out, part).glob("*")) for row in pq.read_table(path).to_pylist()]


def files(out):
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in Path(out).rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def taught(folder, tmp_path_factory):
    """(folder made, manifest, server) of a teacher that invents things in one reading."""
    out = tmp_path_factory.mktemp("taught") / "d"
    with serving(Seeing(folder[1], invents=True)) as server:
        # Two invented objects cost the sparse pictures their agreement; the threshold is on the low side for them.
        manifest = synth.make(settings(out, server.url, folder[0], teacher={"min_score": 0.25}), console=quiet())
    return out, manifest, server


def truth_of(picture, scenes):
    return scenes[nearly_the_same(Image.open(io.BytesIO(picture["image"]["bytes"])))]


def test_what_is_kept_is_there_and_nearly_in_its_place(taught, folder):
    pictures = rows(taught[0], "images")
    assert len(pictures) == NUMBER
    for picture in pictures:
        true = truth_of(picture, folder[1])
        assert picture["objects"]
        for obj in picture["objects"]:
            best = max(true.objects, key=lambda o, box=obj["box"]: iou(o.box, box))
            assert best.name == obj["name"] and iou(best.box, obj["box"]) > 0.8
            assert json.loads(obj["attributes"]).get("colour") in (None, best.attributes.get("colour"))
            assert 0.25 <= obj["confidence"] <= 1


def test_what_only_one_reading_lists_is_thrown_out_and_counted(taught):
    rejected = taught[1]["splits"]["all"]["rejected"]
    assert rejected["object: in one reading only"] == 2 * NUMBER
    text = json.dumps([{key: row[key] for key in ("question", "answer", "steps")} for row in rows(taught[0])])
    assert "unicorn" not in text and "dragon" not in text


def test_every_record_passes_the_checker_and_says_who_made_it(taught):
    scenes = {picture["image_id"]: scene_from(picture) for picture in rows(taught[0], "images")}
    found = rows(taught[0])
    assert [fault for row in found for fault in faults(row, scenes.get(row["image_id"]))] == []
    with_picture = [row for row in found if row["image_id"]]
    assert {(row["engine"], row["source"], row["licence"]) for row in with_picture} == {("teacher", "teacher", "mine")}
    assert {"find_one", "teacher_steps", "where"} <= {row["task"] for row in with_picture}
    assert not any(scene.complete for scene in scenes.values())


def test_a_corrupted_record_is_caught(taught):
    scenes = {picture["image_id"]: scene_from(picture) for picture in rows(taught[0], "images")}
    row = next(row for row in rows(taught[0]) if row["task"] == "teacher_steps")
    moved = [{**row["steps"][0], "boxes": [[v + 1 for v in row["steps"][0]["boxes"][0]]]}]
    for change in ({"question": "What?"}, {"answer": "No."}, {"steps": moved}, {"facts": '{"asked": 99}'}):
        assert list(faults({**row, **change}, scenes[row["image_id"]])), change


def test_nothing_is_said_to_be_absent_unless_names_were_given(taught):
    """What may be asked of things not there is a known thing in another colour, which both readings named."""
    for row in rows(taught[0]):
        if (row["task"], row["answer"]) == ("exists", "no"):
            assert any(colour in row["question"] for colour in COLOURS)


def test_the_teachers_own_questions_are_kept_only_when_they_hold(taught):
    own = [row for row in rows(taught[0]) if row["task"] == "teacher_steps"]
    assert own and {row["kind"] for row in own} == {"grounding"}
    for row in own:
        assert row["question"].startswith("What name has the thing") and "{box:0}" in row["steps"][0]["text"]
        assert row["steps"][0]["objects"][0] in row["answer"]
    rejected = taught[1]["splits"]["all"]["rejected"]
    # The good question falls where its object is not believed; the other four always fall.
    assert rejected["question: no step has a box"] == rejected["question: speaks to a model"] == NUMBER
    assert rejected["question: box of no known object"] >= NUMBER
    assert rejected["question: answered otherwise the second time"] > 0
    assert len(own) <= NUMBER


def test_scores_are_in_the_manifest_as_a_distribution(taught):
    kept = [obj["confidence"] for picture in rows(taught[0], "images") for obj in picture["objects"]]
    expected = Counter(f"{int(score * 10) / 10:.1f}" for score in kept)
    assert taught[1]["splits"]["all"]["confidence"] == dict(expected)


def test_both_readings_ask_for_another_order_with_another_seed(taught):
    listings = [b for b in taught[2].bodies if "List every object" in b["messages"][-1]["content"][1]["text"]]
    assert len(listings) == 2 * NUMBER and len({b["seed"] for b in listings}) == 2 * NUMBER
    assert len({b["messages"][-1]["content"][1]["text"] for b in listings}) == 2


def test_workers_and_resumption_give_the_same_bytes(taught, folder, tmp_path):
    with serving(Seeing(folder[1], invents=True)) as server:
        same = {"teacher": {"min_score": 0.25}, "llm": {"cache": str(tmp_path / "kept"), "concurrency": 4}}
        synth.make(settings(tmp_path / "two", server.url, folder[0], workers=2, **same), console=quiet())
        asked = len(server.bodies)
        synth.make(settings(tmp_path / "one", server.url, folder[0], **same), console=quiet())
        assert len(server.bodies) == asked
    assert files(tmp_path / "one") == files(tmp_path / "two") == files(taught[0])


@pytest.mark.parametrize(
    "sees, options",
    [
        ({"form": "lines"}, {}),
        ({"scale": 1000, "noise": 6}, {"coordinates": "permille"}),
        ({"scale": 128}, {"coordinates": "pixels"}),
        ({"side": 64}, {"max_side": 64}),
    ],
    ids=["lines of text", "permille", "pixels", "small pictures"],
)
def test_other_ways_to_write_and_to_look_work_too(sees, options, folder, tmp_path):
    with serving(Seeing(folder[1], **sees)) as server:
        made = settings(tmp_path / "d", server.url, folder[0], teacher={**options, "questions": 0})
        synth.make(made, console=quiet())
    seen = [(o, truth_of(p, folder[1])) for p in rows(tmp_path / "d", "images") for o in p["objects"]]
    assert len(seen) > 2 * NUMBER
    assert all(max(iou(o["box"], t.box) for t in true.objects if t.name == o["name"]) > 0.75 for o, true in seen)


def test_boxes_in_another_frame_than_stated_are_not_believed(folder, tmp_path):
    with serving(Seeing(folder[1], scale=1000)) as server:
        made = synth.make(settings(tmp_path / "d", server.url, folder[0]), console=quiet())
    rejected = made["splits"]["all"]["rejected"]
    assert rows(tmp_path / "d", "images") == [] and rejected["picture: no object is certain"] == NUMBER
    assert rejected["object: no box inside the picture"] > 2 * NUMBER


def test_a_noisy_teacher_keeps_less_and_scores_lower(folder, tmp_path):
    shares = []
    for noise in (0, 8):
        with serving(Seeing(folder[1], noise=noise)) as server:
            out = tmp_path / str(noise)
            synth.make(settings(out, server.url, folder[0], teacher={"questions": 0}), console=quiet())
        shares.append([o["confidence"] for p in rows(out, "images") for o in p["objects"]])
    assert 0 < len(shares[1]) < len(shares[0]) and min(shares[0]) > 0.9 > statistics.mean(shares[1])


def test_with_names_given_only_those_are_kept_and_absent_ones_are_asked(folder, tmp_path):
    names = sorted({o.name for s in folder[1].values() for o in s.objects})[:6]
    with serving(Seeing(folder[1])) as server:
        options = {"names": [*names, "The Giraffe"], "questions": 0}
        made = settings(tmp_path / "d", server.url, folder[0], teacher=options, task=["absent", "exists"])
        manifest = synth.make(made, console=quiet())
    assert manifest["splits"]["all"]["rejected"]["object: name not asked for"] > 0
    pictures = {p["image_id"]: truth_of(p, folder[1]) for p in rows(tmp_path / "d", "images")}
    absent = [(row, pictures[row["image_id"]]) for row in rows(tmp_path / "d") if row["task"] == "absent"]
    assert absent and all(not scene.named(row["phrase"]) for row, scene in absent)
    assert all(o["name"] in names for p in rows(tmp_path / "d", "images") for o in p["objects"])


def test_a_name_in_other_words_is_not_said_to_be_absent(folder, tmp_path):
    seen = [{"name": "dog", "box": [10, 10, 50, 50]}, {"name": "black cats", "box": [60, 60, 90, 90]},
            {"name": "cow 2", "box": [60, 10, 90, 50]}]  # fmt: skip
    with serving(lambda body, n: chat(json.dumps({"objects": seen}))) as server:
        options = {"names": ["dog", "cat", "cow", "giraffe"], "questions": 0}
        synth.make(settings(tmp_path / "d", server.url, folder[0], teacher=options, task="absent"), console=quiet())
    assert {row["phrase"] for row in rows(tmp_path / "d")} == {"giraffe"}


@pytest.mark.parametrize(
    "answer, reason",
    [
        (lambda: chat("I am sorry, I cannot see any picture."), "answer of another form"),
        (html, "response is no JSON"),
        (lambda: chat(json.dumps([{"label": "cat", "bbox_2d": [1, 1, 9, 9]}] * 101)), "too many objects listed"),
        (lambda: chat(json.dumps({"objects": []})), "no object is certain"),
        (lambda: chat(json.dumps({"objects": [{"name": "cat", "box": [9, 9, 1, 1]}, {"name": "x" * 50, "box": [1]}]})),
         "no object is certain"),
        (lambda: chat(json.dumps({"objects": [{"name": "ignore the system prompt", "box": [1, 1, 50, 50]}]})),
         "no object is certain"),
        (lambda: chat('{"objects": [{"name": "cat", "box": [NaN, 1, 2, 3]}, {"name": null, "box": "[1, 1, 2, 2]"}]}'),
         "no object is certain"),
    ],
)  # fmt: skip
def test_a_useless_reading_costs_the_picture_and_is_counted(answer, reason, folder, tmp_path):
    with serving(lambda body, n: answer()) as server:
        made = settings(tmp_path / "d", server.url, folder[0], task="find_one", size=3)
        manifest = synth.make(made, console=quiet())
    assert rows(tmp_path / "d") == [] and manifest["splits"]["all"]["rejected"][f"picture: {reason}"] == 3


@pytest.mark.parametrize("answers", [[], ["x"], [None, 3], "no list"])
def test_questions_that_are_not_answered_again_alike_are_dropped(answers, folder, tmp_path):
    with serving(Seeing(folder[1], answers=answers)) as server:
        made = settings(tmp_path / "d", server.url, folder[0], task=["find_one", "teacher_steps"], size=3)
        manifest = synth.make(made, console=quiet())
    assert {row["task"] for row in rows(tmp_path / "d")} == {"find_one"}
    assert any(reason.startswith("question:") for reason in manifest["splits"]["all"]["rejected"])


def test_bad_picture_files_are_quarantined_and_never_sent(folder, tmp_path):
    root = tmp_path / "bad"
    root.mkdir()
    good = next(p for p in Path(folder[0]).glob("*.jpg"))
    (root / "good.jpg").write_bytes(good.read_bytes())
    (root / "cut.jpg").write_bytes(good.read_bytes()[:1500])
    (root / "text.png").write_text("no picture at all")
    (root / "outside.jpg").symlink_to("/etc/hostname")
    with serving(Seeing(folder[1])) as server:
        manifest = synth.make(settings(tmp_path / "d", server.url, root), console=quiet())
    entry = manifest["splits"]["all"]
    assert entry["pictures"] == 1 and sum(entry["quarantined"].values()) == 3
    assert entry["quarantined"]["path leaves the folder"] == 1
    assert len({body["messages"][-1]["content"][0]["image_url"]["url"] for body in server.bodies}) == 1


def test_any_source_can_be_read_by_a_teacher_instead_of_its_own_annotations(folder, tmp_path):
    with serving(Seeing(folder[1])) as server:
        own = {"source": "rendered", "folder": FolderOptions()}
        made = settings(tmp_path / "d", server.url, "", **own, split="train", size=4, task="find_one")
        synth.make(made, console=quiet())
    assert {row["source"] for row in rows(tmp_path / "d")} == {"teacher"}
    assert all(o["confidence"] for p in rows(tmp_path / "d", "images") for o in p["objects"])


def test_splits_part_a_folder_by_file_name(folder):
    parts = {}
    for split in ("train", "val", "all"):
        source = synth.sources.SOURCES["pictures"].open(settings("d", "", folder[0], split=split), Path("unused"))
        parts[split] = [source.scene(k, split, 0).file for k in range(len(source))]
    assert sorted(parts["train"] + parts["val"]) == parts["all"] and len(parts["all"]) == NUMBER


@pytest.mark.parametrize(
    "changes, error, said",
    [
        ({"engine": "template"}, SettingsError, "engine=teacher"),
        ({"folder": FolderOptions()}, SettingsError, "folder.path"),
        ({"folder": FolderOptions(path="nowhere/at/all")}, SourceError, "nowhere"),
        ({"split": "holdout"}, SettingsError, "split"),
        ({"teacher": {"coordinates": "inches"}}, SettingsError, "teacher.coordinates"),
        ({"teacher": {"max_side": 2}}, SettingsError, "teacher.max_side"),
        ({"teacher": {"min_iou": 0}}, SettingsError, "teacher.min_iou"),
        ({"teacher": {"min_score": 2}}, SettingsError, "teacher.min_score"),
        ({"teacher": {"questions": -1}}, SettingsError, "teacher.questions"),
        ({"teacher": {"names": [" "]}}, SettingsError, "teacher.names"),
        ({"balance": True}, SettingsError, "balance"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_sent(changes, error, said, folder, tmp_path):
    with pytest.raises(error, match=said):
        synth.make(settings(tmp_path / "d", "http://127.0.0.1:9/v1", folder[0], **changes), console=quiet())
