"""Questions about several pictures: what is true of a pair, who are neighbours, and what becomes of a bad picture."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import synth
from synth.check_folder import check_folder
from synth.errors import SettingsError
from synth.languages import LANGUAGES
from synth.settings import Settings
from synth.sources import SOURCES, PictureFault, SourceKind
from synth.sources.options import FolderOptions
from synth.sources.rendered import RenderedSource
from synth.tasks import TASKS
from tests.synth.by_hand import drafts, scene, thing
from tests.synth.sources.test_paste import coco_folder

SEVERAL = ["difference", "more_in", "same_in_both", "which_picture"]
CAT, DOG = thing(0, "cat", 10, 5, 50, 25), thing(1, "dog", 150, 30, 190, 90)
KEY = thing(2, "key", 60, 60, 90, 90)
RED, BLUE = (thing(k, "star", 90, 10, 110, 30, colour=colour) for k, colour in ((3, "red"), (4, "blue")))


def told(task, first, second, **known):
    """Every (question, answer, pictures of answer and steps, boxes) of a pair of scenes of these things."""
    pair = (scene(*first, **known), scene(*second, **known))
    return {(d.question, d.answer, (d.picture, *(s.picture for s in d.steps)), *d.boxes) for d in drafts(task, pair)}


def test_the_picture_that_holds_the_thing_is_named_and_pointed_at():
    found = told("which_picture", (CAT, KEY), (DOG, KEY))
    assert {(answer, where, box) for _, answer, where, box in found} == {
        ("The cat is in the first picture, at {box:0}.", (0, 0, 1), CAT.box),
        ("The dog is in the second picture, at {box:0}.", (1, 0, 1), DOG.box),
    }
    assert {q for q, *_ in found} >= {
        "In which picture is the cat? Point to it.",
        "Which picture shows the dog? Give its box.",
    }


def test_what_may_be_in_the_other_picture_unseen_is_not_asked_for():
    assert told("which_picture", (CAT,), (DOG,), vocabulary=("star",)) == set()
    # A red star beside a blue one: of a picture that is not complete, nobody knows that none of its stars is red.
    assert {a for _, a, *_ in told("which_picture", (RED,), (BLUE,))} == set()  # "the star" is in both
    two = (RED, thing(5, "star", 10, 60, 30, 80, colour="green"))
    assert any("red star is in the first" in a for _, a, *_ in told("which_picture", two, (BLUE,)))
    assert not told("which_picture", two, (BLUE,), complete=False)


def test_the_same_kind_is_found_from_the_box_that_the_question_shows():
    pair = (scene(CAT, DOG), scene(replace(CAT, id=7, box=(100.0, 50.0, 140.0, 90.0)), KEY))
    for draft in drafts("same_in_both", pair):
        assert draft.question_boxes == [CAT.box] == draft.steps[0].boxes and draft.steps[0].picture == 0
        assert (draft.boxes, draft.picture, draft.answer) == ([(100.0, 50.0, 140.0, 90.0)], 1, "The cat is at {box:0}.")
    assert drafts("same_in_both", pair)
    assert not drafts("same_in_both", (pair[0], scene(CAT, replace(CAT, id=7))))  # two cats: which one?
    assert not drafts("same_in_both", (pair[0], scene(CAT, exhaustive=False)))
    assert not drafts("same_in_both", (scene(CAT, replace(DOG, box=CAT.box)), scene(CAT)))  # whose box is it?


@pytest.mark.parametrize(
    "first, second, answer",
    [((CAT, DOG), (DOG,), "first"), ((DOG,), (CAT, CAT), "second"), ((CAT, DOG), (CAT,), "equally many")],
)  # fmt: skip
def test_the_picture_with_more_is_told_apart_by_counting(first, second, answer):
    found = {(q, a) for q, a, *_ in told("more_in", first, second)}
    assert ("Which picture shows more cats?", answer) in found
    assert {a for q, a in found if "cats" in q} == {answer}
    assert not told("more_in", (CAT,), (DOG,), vocabulary=("star",)) and not told(
        "more_in", (CAT,), (DOG,), exhaustive=False
    )


def test_the_difference_is_whole_or_not_told():
    found = {(q, a) for q, a, *_ in told("difference", (CAT, KEY, DOG), (KEY,))}
    assert ("What is in the first picture but not in the second one?", "a cat and a dog") in found
    assert {a for _, a in found} == {"a cat and a dog"}  # nothing of the second is missing in the first
    assert not told("difference", (CAT, KEY), (KEY,), complete=False)
    assert not told("difference", (CAT, RED), (BLUE,))  # somebody would say "a cat and a red star"


@pytest.mark.parametrize("task", SEVERAL)
@pytest.mark.parametrize("language", LANGUAGES)
def test_unseen_wordings_are_not_in_training(task, language):
    pair = (scene(CAT, KEY), scene(KEY, DOG))
    seen, unseen = (
        {d.question for d in drafts(task, pair, split=split, language=language)} for split in ("train", "unseen")
    )
    assert len(seen) >= 6 and len(unseen) >= 2 and not seen & unseen


def test_they_are_asked_only_when_told_so():
    assert sorted(name for name, task in TASKS.items() if task.pictures > 1) == SEVERAL
    for chosen in ("all", "grounding", "understanding", ["grounding", "understanding"]):
        assert not set(SEVERAL) & set(Settings(task=chosen).task_names())
    assert Settings(task="several").task_names() == SEVERAL
    assert set(Settings(task=["all", "several"]).task_names()) == {*Settings(task="all").task_names(), *SEVERAL}
    with pytest.raises(SettingsError, match="holds no group of 2"):
        Settings(task="several", shard_size=1).check()


def settings(out, **changes):
    return Settings(**{"out": str(out), "task": ["find_one", "several"], "size": 17, "shard_size": 5, **changes})


def rows(out, part="records"):
    return [row for path in sorted(Path(out, part).glob("*")) for row in pq.read_table(path).to_pylist()]


def digests(out):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(out).rglob("*.parquet")}


def pairs(out):
    """The indices of the pictures that records are about together."""
    return {tuple(int(name.split("/")[2]) for name in (r["image_id"], *r["more_image_ids"])) for r in rows(out)
            if r["more_image_ids"]}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("several") / "d"
    return out, synth.make(settings(out))


def test_neighbours_within_a_shard_are_asked_about_and_the_last_lone_one_is_not(made):
    inside = {(k, k + 1) for first in (0, 5, 10, 15) for k in (first, first + 2) if k + 1 < min(first + 5, 17)}
    assert pairs(made[0]) == inside == {(0, 1), (2, 3), (5, 6), (7, 8), (10, 11), (12, 13), (15, 16)}
    for path in (made[0] / "records").iterdir():
        here = {row["image_id"] for row in pq.read_table(made[0] / "images" / path.name).to_pylist()}
        named = [{r["image_id"], *r["more_image_ids"]} for r in pq.read_table(path).to_pylist()]
        assert set.union(*named) == here
    images = [row["image_id"] for row in rows(made[0], "images")]
    assert len(images) == len(set(images)) == made[1]["splits"]["train"]["pictures"]


def test_every_record_passes_the_checker_and_all_tasks_are_asked(made):
    found = list(check_folder(made[0]))
    assert [faults for _, faults in found if faults] == [] and len(found) == len(rows(made[0]))
    assert set(SEVERAL) < {row["task"] for row in rows(made[0])}
    assert len({row["id"] for row in rows(made[0])}) == len(found)


def test_two_processes_write_the_same_bytes_and_other_tasks_change_nothing(made, tmp_path):
    synth.make(settings(tmp_path / "two", workers=2))
    assert digests(tmp_path / "two") == digests(made[0])
    synth.make(settings(tmp_path / "alone", task="which_picture"))
    assert rows(tmp_path / "alone") == [row for row in rows(made[0]) if row["task"] == "which_picture"]


def test_neither_picture_is_the_likelier_answer(tmp_path):
    synth.make(settings(tmp_path / "d", task=["which_picture", "more_in"], size=120, shard_size=60))
    picked = Counter(row["picture"] for row in rows(tmp_path / "d") if row["task"] == "which_picture")
    assert abs(picked[0] - picked[1]) < 0.15 * picked.total()
    answers = Counter(row["answer"] for row in rows(tmp_path / "d") if row["task"] == "more_in")
    assert abs(answers["first"] - answers["second"]) < 0.15 * answers.total() and answers["equally many"]


class Stumbling(RenderedSource):
    """The rendered source with a picture that is bad: found so at once, or only when its pixels are wanted."""

    def __init__(self, at, late):
        super().__init__()
        self.at, self.late = at, late

    def scene(self, index, split, seed):
        def torn():
            raise PictureFault("torn", f"{index}.jpg")

        if index == self.at and not self.late:
            torn()
        scene = super().scene(index, split, seed)
        return replace(scene, image_bytes=torn) if index == self.at else scene


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("at", [2, 3])
def test_a_bad_picture_takes_the_records_that_need_it_with_it_and_no_others(made, tmp_path, monkeypatch, at, late):
    kind = SourceKind(lambda s, work: Stumbling(at, late), SOURCES["rendered"].fingerprint)
    monkeypatch.setitem(SOURCES, "rendered", kind)
    entry = synth.make(settings(tmp_path / "d"))["splits"]["train"]
    bad = f"train/rendered/{at}"
    kept = [row for row in rows(made[0]) if bad not in (row["image_id"], *row["more_image_ids"])]
    assert rows(tmp_path / "d") == kept and entry["quarantined"] == {"torn": 1}
    stored = {row["image_id"] for row in rows(tmp_path / "d", "images")}
    assert stored == {name for row in kept for name in (row["image_id"], *row["more_image_ids"])}
    assert entry["pictures"] == len(stored) and sum(entry["licences"].values()) == len(kept)


def test_a_picture_of_which_only_a_dropped_record_speaks_is_not_stored(tmp_path, monkeypatch):
    kind = SourceKind(lambda s, work: Stumbling(3, True), SOURCES["rendered"].fingerprint)
    monkeypatch.setitem(SOURCES, "rendered", kind)
    synth.make(settings(tmp_path / "d", task="several", size=4))
    assert {row["image_id"] for row in rows(tmp_path / "d", "images")} == {"train/rendered/0", "train/rendered/1"}


def test_choices_of_questions_keep_working(made, tmp_path):
    full = {row["id"]: row for row in rows(made[0])}
    synth.make(settings(tmp_path / "few", questions_per_image=2))
    few = rows(tmp_path / "few")
    assert max(Counter(row["image_id"] for row in few).values()) == 2
    assert all(row == full[row["id"]] for row in few) and any(row["more_image_ids"] for row in few)
    synth.make(settings(tmp_path / "hard", difficulty=[4, 5]))
    assert rows(tmp_path / "hard") == [row for row in full.values() if row["difficulty"] >= 4]
    synth.make(settings(tmp_path / "share", grounding_share=0.5, size=60))
    kinds: dict[str, set] = {}
    for row in rows(tmp_path / "share"):
        for name in (row["image_id"], *row["more_image_ids"]):
            kinds.setdefault(name, set()).add(row["kind"])
    assert all(len(found) == 1 for found in kinds.values())
    about_two = [row for row in rows(tmp_path / "share") if row["more_image_ids"]]
    assert {row["kind"] for row in about_two} == {"grounding", "understanding"}


def test_even_answers(tmp_path):
    for name, balance in (("even", True), ("plain", False)):
        synth.make(
            settings(tmp_path / name, task=["more_in", "which_picture"], size=80, shard_size=80, balance=balance)
        )
    plain = {row["id"]: row for row in rows(tmp_path / "plain")}
    even = rows(tmp_path / "even")
    assert all(row == plain[row["id"]] for row in even)
    count = Counter(row["answer"] for row in even if row["task"] == "more_in")
    assert count["first"] == count["second"] > 5
    assert sum(row["task"] == "which_picture" for row in even) == sum(
        r["task"] == "which_picture" for r in plain.values()
    )


def test_linked_pictures_and_joined_licences(tmp_path):
    coco_folder(tmp_path / "coco")
    path = tmp_path / "coco" / "instances.json"
    content = json.loads(path.read_text())
    content["licenses"] = [{"id": k, "name": f"L{k}"} for k in range(2)]
    for k, image in enumerate(content["images"]):
        image["license"] = k % 2
    path.write_text(json.dumps(content))
    given = {"source": "coco", "folder": FolderOptions(path=str(tmp_path / "coco")), "split": "all", "size": None}
    entry = synth.make(settings(tmp_path / "d", task="several", images="link", **given))["splits"]["all"]
    found = rows(tmp_path / "d")
    assert found and [faults for _, faults in check_folder(tmp_path / "d") if faults] == []
    assert all(row["image"]["bytes"] is None for row in rows(tmp_path / "d", "images"))
    assert sum(entry["licences"].values()) == len(found)
    assert {frozenset(row["licence"].split("; ")) for row in found} == {frozenset(("L0", "L1"))}


def test_what_the_ground_may_show_as_well_is_neither_counted_nor_called_the_only_one():
    """A rendered picture's vocabulary lacks what its ground shows: stars, on a starry sky."""
    skies = {"vocabulary": ("cat", "dog", "key")}
    assert told("which_picture", (CAT,), (DOG,), **skies)
    assert not any("star" in answer for _, answer, *_ in told("which_picture", (RED,), (CAT,), **skies))
    assert not told("same_in_both", (RED,), (RED,), **skies) and told("same_in_both", (CAT,), (CAT,), **skies)
    assert not told("more_in", (RED,), (BLUE,), **skies) and told("more_in", (CAT,), (CAT,), **skies)
