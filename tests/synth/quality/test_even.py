"""Thinning leaves answers that the question does not tell, is the same for any number of workers, and loses no more."""

import hashlib
import random
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import synth
from synth.quality.even import Asked, even
from synth.tasks import TASKS


def asked(*rows):
    """Rows of (task, answer, things named, how many)."""
    made = [(task, answer, about) for task, answer, about, n in rows for _ in range(n)]
    return [Asked(f"id/{k}", *row) for k, row in enumerate(made)]


def left(rows, stream="0/train"):
    kept = even(rows, stream)
    return Counter((row.about, row.answer) for row in rows if row.id in kept)


def test_yes_and_no_are_as_frequent_for_every_thing():
    rows = asked(
        ("exists", "yes", ("dog",), 90), ("exists", "no", ("dog",), 10), ("exists", "yes", ("cat",), 5),
        ("exists", "no", ("cat",), 60), ("exists", "yes", ("sky",), 40), ("exists", "no", ("unicorn",), 3),
    )  # fmt: skip
    assert left(rows) == {(("dog",), "yes"): 10, (("dog",), "no"): 10, (("cat",), "yes"): 5, (("cat",), "no"): 5}


def test_no_answer_has_more_than_two_points_over_its_even_share():
    rows = asked(*(("count", str(k), ("things",), n) for k, n in enumerate((0, 500, 300, 200, 100))))
    kept = left(rows)
    total = sum(kept.values())
    assert max(kept.values()) / total <= 1 / 4 + 0.02
    assert kept[("things",), "4"] == 100  # the rarest stay


def test_a_rare_answer_stays_and_does_not_drag_the_others_down():
    kept = left(asked(("count", "1", ("cats",), 400), ("count", "2", ("cats",), 300), ("count", "9", ("cats",), 2)))
    assert kept[("cats",), "9"] == 2 and kept[("cats",), "2"] == 300 and 300 <= kept[("cats",), "1"] <= 330


def test_even_answers_are_left_alone():
    rows = asked(*(("shape", name, (), 50) for name in "abcdef"))
    assert sum(left(rows).values()) == 300


def test_a_thing_that_always_wins_is_no_clue():
    rng = random.Random(0)
    rows = []
    for k in range(400):
        small = rng.choice(("cup", "fork", "spoon"))
        pair = tuple(rng.sample(("elephant", small), 2))
        rows.append(Asked(f"e{k}", "larger", "elephant", pair))
    for k in range(400):
        pair = tuple(rng.sample(("cat", "dog", "owl"), 2))
        rows.append(Asked(f"p{k}", "larger", rng.choice(pair), pair))
    kept = even(rows, "s")
    assert sum(k.startswith("e") for k in kept) <= 3 and len(kept) > 300
    won, asked_of = Counter(), Counter()
    for row in rows:
        if row.id in kept:
            won[row.answer] += 1
            asked_of.update(row.about)
            won["first"] += row.answer == row.about[0]
    assert abs(2 * won["first"] - len(kept)) <= 1
    assert all(abs(2 * won[name] - asked_of[name]) <= 1 for name in ("cat", "dog", "owl", "elephant"))


def test_what_stays_depends_on_the_stream_not_on_the_order():
    rows = asked(("exists", "yes", ("dog",), 90), ("exists", "no", ("dog",), 10))
    assert even(rows, "0/train") == even(rows[::-1], "0/train") != even(rows, "1/train")


def settings(out, **changes):
    tasks = ["exists", "count", "larger", "find_one"]
    return synth.Settings(**{"out": str(out), "task": tasks, "size": 60, "shard_size": 30, "balance": True, **changes})


def rows_of(out, part="records"):
    return [row for path in sorted(Path(out, part).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("even")
    return {name: (out / name, synth.make(settings(out / name, **changes))) for name, changes in {
        "even": {}, "plain": {"balance": False}, "two": {"workers": 2},
    }.items()}  # fmt: skip


def digests(out):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(out).rglob("*.parquet"))}


def test_any_number_of_workers_writes_the_same_bytes(made):
    assert digests(made["even"][0]) == digests(made["two"][0])


def test_only_closed_tasks_are_thinned_and_what_stays_is_as_it_was(made):
    thinned, plain = (Counter(row["task"] for row in rows_of(made[name][0])) for name in ("even", "plain"))
    assert thinned["find_one"] == plain["find_one"] and thinned["exists"] < plain["exists"]
    before = {row["id"]: row for row in rows_of(made["plain"][0])}
    assert all(row == before[row["id"]] for row in rows_of(made["even"][0]))
    entry = made["even"][1]["splits"]["train"]
    assert entry["thinned"] == {task: plain[task] - thinned[task] for task in ("count", "exists", "larger")}
    assert entry["counts"] == dict(thinned) and made["plain"][1]["splits"]["train"]["thinned"] == {}


def test_yes_is_no_more_frequent_than_no(made):
    answers = Counter(row["answer"] for row in rows_of(made["even"][0]) if row["task"] == "exists")
    assert answers["yes"] == answers["no"] > 0


def test_a_picture_that_lost_all_its_questions_is_not_stored(tmp_path):
    manifest = synth.make(settings(tmp_path / "d", task="background", size=20, shard_size=20))
    stored = {row["image_id"] for row in rows_of(tmp_path / "d", "images")}
    assert stored == {row["image_id"] for row in rows_of(tmp_path / "d")}
    assert len(stored) == manifest["splits"]["train"]["pictures"] < 20


def test_tasks_with_few_answers_are_marked_closed():
    closed = {name for name, task in TASKS.items() if task.closed}
    assert {"exists", "side", "count", "colour", "where", "larger", "count_by_pointing", "region_colour"} <= closed
    assert not closed & {"find_one", "describe", "words", "numbers", "absent"}
