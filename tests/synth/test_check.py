"""The checker: every record that is made passes, and a change to any of its parts is caught, whatever the part."""

import copy
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import synth
from synth.__main__ import main
from synth.check import faults, scene_from
from synth.languages import LANGUAGES, load_pack
from synth.record import RECORDS, image_id_of, make_picture, named_pictures
from synth.settings import Settings
from synth.shard import grouped, scene_records
from synth.sources.rendered import RenderedOptions, RenderedSource
from synth.tasks import TASKS

PICTURES = 8


def made(language: str):
    """(record, its scenes as they come back from the table) of every task over some pictures, in all wordings."""
    for split, texts in (("train", (0,)), ("unseen", (0, 0.4))):  # every other unseen picture may hold words
        settings = Settings(language=language, split=split, task=["all", "several"])
        sources = [RenderedSource(RenderedOptions(text=text)) for text in texts]
        scenes = [sources[k % len(sources)].scene(k, split, 0) for k in range(PICTURES)]
        stored = {image_id_of(scene, split): scene_from(make_picture(scene, "a/b/c")) for scene in scenes}
        for scene, groups in grouped(scenes, 0, settings.task_names()):
            for record in scene_records(scene, settings, settings.task_names(), groups)[0]:
                yield record, tuple(stored[name] for name in named_pictures(record)) or (None,)


@pytest.fixture(scope="module", params=LANGUAGES)
def records(request):
    return list(made(request.param))


def test_every_record_passes_its_checker(records):
    assert {record["task"] for record, _ in records} <= set(TASKS)
    assert [fault for record, scenes in records for fault in faults(record, *scenes)] == []


def corrupted(record: dict):
    """The record with one part changed at a time: (what was changed, record)."""

    def changed(part, change):
        other = copy.deepcopy(record)
        change(other)
        return part, other

    for part in ("question", "answer"):
        yield changed(part, lambda r, part=part: r.update({part: r[part].replace(r[part][0], "", 1) or "x"}))
    for k in range(len(record["boxes"])):
        for edge in range(4):
            yield changed(
                f"box {k}", lambda r, k=k, edge=edge: r["boxes"][k].__setitem__(edge, r["boxes"][k][edge] + 1)
            )
        yield changed(f"box {k} lost", lambda r, k=k: r["boxes"].pop(k))
    for k in range(len(record["question_boxes"])):
        yield changed("question box", lambda r, k=k: r["question_boxes"][k].__setitem__(0, 0.5))
        yield changed("question box lost", lambda r, k=k: r["question_boxes"].pop(k))
    for k, (x, y) in enumerate(record["question_points"]):
        yield changed("question point", lambda r, k=k, x=x, y=y: r["question_points"].__setitem__(k, [x + 0.1, y]))
        yield changed("question point lost", lambda r, k=k: r["question_points"].pop(k))
    if record["boxes"] or record["more_image_ids"]:
        yield changed("picture", lambda r: r.update(picture=1 - r["picture"]))
    if record["more_image_ids"]:
        yield changed("more pictures", lambda r: r["more_image_ids"].pop())
    yield changed("difficulty", lambda r: r.update(difficulty=r["difficulty"] % 5 + 1))
    for k, step in enumerate(record["steps"]):
        yield changed(f"step {k}", lambda r, k=k: r["steps"][k].update(text=r["steps"][k]["text"] + " No."))
        yield changed(f"step {k} lost", lambda r, k=k: r["steps"].pop(k))
        for n in range(len(step["boxes"])):
            yield changed(f"step {k} box", lambda r, k=k, n=n: r["steps"][k]["boxes"][n].__setitem__(0, 0.5))
        if step["boxes"]:
            yield changed(
                f"step {k} picture", lambda r, k=k: r["steps"][k].update(picture=1 - r["steps"][k]["picture"])
            )
        if step["objects"]:
            yield changed(f"step {k} objects", lambda r, k=k: r["steps"][k].update(objects=["ghost"]))
    if record["phrase"]:
        yield changed("phrase", lambda r: r.update(phrase=r["phrase"] + "s"))


def test_every_corruption_is_caught(records):
    tried = 0
    for record, scenes in records:
        for part, other in corrupted(record):
            tried += 1
            assert list(faults(other, *scenes)), f"{part} of {record['id']}: {record['question']} {record['answer']}"
    assert tried > 10 * len(records) / 5


def test_an_answer_that_belongs_to_another_record_is_caught(records):
    """The likeliest corruption of all: texts of the right form that are about something else."""
    rng = random.Random(0)
    by_task = {}
    for record, scenes in records:
        by_task.setdefault(record["task"], []).append((record, scenes))
    for group in by_task.values():
        for (record, scenes), (other, _) in zip(group, rng.sample(group, len(group)), strict=True):
            told = ("question", "answer", "boxes", "steps", "phrase", "question_boxes", "question_points", "picture")
            parts = [part for part in told if record[part] != other[part]]
            for part in parts:
                if part == "question":  # another wording of the same question is no corruption
                    continue
                assert list(faults({**record, part: other[part]}, *scenes)), (record["id"], part)


def test_facts_that_the_picture_does_not_bear_out_are_caught(records):
    for record, scenes in records:
        told = json.loads(record["facts"])
        for key in ("target", "anchor", "other", "picture"):
            if key in told:
                assert list(faults({**record, "facts": json.dumps({**told, key: 99})}, *scenes))


def test_facts_of_another_task_or_of_none_are_a_fault(records):
    for record, scenes in records:
        for facts in ("{}", "null", '{"target": [], "name": 3, "of": [null], "asked": "x", "words": 1, "hops": 2}'):
            assert list(faults({**record, "facts": facts}, *scenes)) or facts == record["facts"], record["id"]


def test_every_pack_words_what_its_tasks_say():
    english = load_pack("en")
    assert set(english.tasks) == set(TASKS)
    for language in LANGUAGES:
        pack = load_pack(language)
        assert set(pack.tasks) <= set(TASKS)
        for name, entry in pack.tasks.items():
            assert set(entry) == set(english.tasks[name]), (language, name)


def test_a_folder_is_checked_and_a_changed_table_is_found(tmp_path, capsys):
    out = tmp_path / "data"
    synth.make(Settings(out=str(out), size=6, task=["find_one", "count", "numbers"]))
    assert main(["check", str(out)]) == 0
    table = next((out / "records").glob("*.parquet"))
    rows = pq.read_table(table).to_pylist()
    found = next(row for row in rows if row["task"] == "find_one")
    found["boxes"][0][0] += 2
    next(row for row in rows if row["task"] == "numbers")["answer"] = "17 or so"
    pq.write_table(pa.Table.from_pylist(rows, schema=RECORDS), table)
    capsys.readouterr()
    assert main(["check", str(out)]) == 1
    told = capsys.readouterr().out
    assert f"{found['id']}: boxes of the answer are" in told and "2 of them differ" in told
    assert main(["check", str(tmp_path)]) == 1
