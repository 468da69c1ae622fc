"""Asking in parts: nothing is asked twice, nothing depends on where a run stopped, what is broken is counted."""

import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.evaluation.measuring import chosen, measure
from lynx_moe.evaluation.protocols.base import Item
from lynx_moe.evaluation.protocols.records import Records
from lynx_moe.evaluation.rows import Part, RowKey, read_part, read_rows, write_part, write_rows
from lynx_moe.evaluation.run import evaluate
from tests.architecture.source_tree import ROOT
from tests.evaluation.asked import Choices, brightness_scorer, tiny_asker, write_choices, write_records

COLOURS = [("a", "red", "red", "blue"), ("b", "green", "green", "red"), ("c", "blue", "red", "blue")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("data") / "records")


def score(folder, out, **settings):
    asker = tiny_asker(scorer=brightness_scorer)
    return measure(Choices(folder), asker, out, progress=False, **settings)


def test_records_as_a_protocol_have_the_numbers_that_evaluate_has(folder, tmp_path):
    asker = tiny_asker(max_new_tokens=24, batch_size=8)
    protocol = Records(folder)
    found = measure(protocol, asker, tmp_path, progress=False)
    summary = protocol.summarise(found.rows)
    records = [item.asks[0].record for item in protocol.items()]
    whole = evaluate(asker.model, asker.processor, records, asker.dialect, 8, max_new_tokens=24, progress=False)
    assert summary["grounding"] == whole["grounding"] and summary["retention"] == whole["retention"]
    assert [row.answers[0] for row in found.rows] == [sample["answer"] for sample in whole["samples"]]
    assert [row.right for row in found.rows] == [sample["right"] for sample in whole["samples"]]
    assert summary["accuracy"] == sum(s["right"] for s in whole["samples"]) / len(records)


def test_what_was_asked_is_not_asked_again(folder, tmp_path, monkeypatch):
    first = measure(Records(folder), tiny_asker(), tmp_path, progress=False)
    monkeypatch.setattr("lynx_moe.evaluation.asking.generate_answers", lambda *a, **k: pytest.fail("asked again"))
    assert measure(Records(folder), tiny_asker(), tmp_path, progress=False) == first


CHILD = """
import sys
from pathlib import Path
from lynx_moe.evaluation.measuring import measure
from lynx_moe.evaluation.protocols.records import Records
from tests.evaluation.asked import tiny_asker
measure(Records(Path(sys.argv[1])), tiny_asker(), Path(sys.argv[2]), progress=False)
(Path(sys.argv[2]) / "ended").touch()
"""


def test_a_run_that_was_killed_ends_with_the_same_bytes(folder, tmp_path):
    key = RowKey("after", "", "records")
    undisturbed = measure(Records(folder), tiny_asker(), tmp_path / "whole", progress=False)
    write_rows(tmp_path / "whole.parquet", {key: undisturbed.rows})
    killed = tmp_path / "killed"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder), str(killed)], env=environment, cwd=ROOT)
    deadline = time.monotonic() + 120
    while len(list(killed.glob("*.parquet"))) < 2 and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.002)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and not (killed / "ended").exists()
    done = len(list(killed.glob("*.parquet")))
    assert 2 <= done < len(list((tmp_path / "whole").glob("*.parquet")))
    again = measure(Records(folder), tiny_asker(), killed, progress=False)
    write_rows(tmp_path / "again.parquet", {key: again.rows})
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    for part in (tmp_path / "whole").glob("*.parquet"):
        assert (killed / part.name).read_bytes() == part.read_bytes()


def test_scores_are_asked_of_the_scorer_and_judged_by_the_protocol(tmp_path):
    found = score(write_choices(tmp_path / "data", COLOURS), tmp_path / "out")
    assert [row.right for row in found.rows] == [True, True, False] and found.faults == {}
    assert [len(row.scores) for row in found.rows] == [2, 2, 2]


def test_without_a_scorer_it_says_how_to_choose_one(tmp_path):
    folder = write_choices(tmp_path / "data", COLOURS)
    with pytest.raises(ConfigError, match="--scorer"):
        measure(Choices(folder), tiny_asker(), tmp_path / "out", progress=False)


def test_pictures_that_cannot_be_opened_and_repeated_ids_are_counted_and_the_run_goes_on(tmp_path):
    entries = [*COLOURS, ("broken", "", "red", "blue"), COLOURS[0]]
    folder = write_choices(tmp_path / "data", entries)
    (folder / "c.png").unlink()
    found = score(folder, tmp_path / "out")
    assert [row.id for row in found.rows] == ["a", "b"]
    assert found.faults == {"picture that cannot be opened": 2, "duplicate id": 1}
    assert score(folder, tmp_path / "out") == found


def test_nothing_to_ask_is_refused_with_what_was_wrong(tmp_path):
    with pytest.raises(RecordError, match="the split is empty"):
        score(write_choices(tmp_path / "none", []), tmp_path / "out")
    with pytest.raises(RecordError, match="cannot be opened: 1"):
        score(write_choices(tmp_path / "broken", [("x", "", "red", "blue")]), tmp_path / "out2")


def test_rows_of_other_data_are_noticed(tmp_path):
    folder = write_choices(tmp_path / "data", COLOURS)
    score(folder, tmp_path / "out")
    write_choices(folder, [("a", "red", "green", "blue"), *COLOURS[1:]])
    with pytest.raises(ConfigError, match="--restart"):
        score(folder, tmp_path / "out")


def test_a_limit_draws_the_same_items_whatever_their_order():
    items = [Item(id=str(k), asks=(), truth={}) for k in range(50)]
    forward = [item.id for item in chosen(items, 10)]
    backward = [item.id for item in chosen(items[::-1], 10)]
    assert forward == backward[::-1] == sorted(forward, key=int) and len(forward) == 10
    assert set(forward) < {item.id for item in chosen(items, 20)}
    assert list(chosen(items, None)) == items


def test_rows_come_back_as_they_were_written(tmp_path):
    from collections import Counter

    from lynx_moe.evaluation.protocols.base import Row
    from lynx_moe.evaluation.rows import writable

    nasty = Row(
        id="ü/<b>\ud800", group="g", asked=["?\ud83d"], truth={"boxes": [[1.5, 2]], "n": None}, answers=["\x00</td>"],
        scores=[0.1, float("inf")], boxes=[[0.1 + 0.2, 1.0, 2.0, 3.0]], confidences=[1e-300], errors={"inverted": 2},
        right=None, numbers={"iou": 1 / 3}, picture="p",
    )  # fmt: skip
    row = writable(nasty)
    write_part(tmp_path / "p.parquet", Part([row], 3, Counter({"gone": 2})))
    assert read_part(tmp_path / "p.parquet") == Part([row], 3, Counter({"gone": 2}))
    groups = {RowKey("after", "blur 3", "x"): [row], RowKey("before", "", "y"): []}
    write_rows(tmp_path / "r.parquet", groups)
    assert read_rows(tmp_path / "r.parquet") == {RowKey("after", "blur 3", "x"): [row]}


def test_a_picture_or_a_word_that_changed_is_noticed_and_not_answered_from_memory(tmp_path):
    folder = write_choices(tmp_path / "data", COLOURS)
    first = score(folder, tmp_path / "out")
    assert score(folder, tmp_path / "out") == first
    Image.new("RGB", (24, 16), "blue").save(folder / "a.png")
    with pytest.raises(ConfigError, match="other questions"):
        score(folder, tmp_path / "out")
    write_choices(folder, [("a", "red", "red", "green"), *COLOURS[1:]])  # the foil alone is another word
    with pytest.raises(ConfigError, match="other questions"):
        score(folder, tmp_path / "out")


def test_a_picture_that_was_mended_is_asked_about(tmp_path):
    folder = write_choices(tmp_path / "data", [("a", "", "red", "blue"), ("b", "", "green", "red")])
    with pytest.raises(RecordError, match="can be asked"):
        score(folder, tmp_path / "out")
    Image.new("RGB", (24, 16), "red").save(folder / "a.png")
    found = score(folder, tmp_path / "out")
    assert [row.id for row in found.rows] == ["a"] and sum(found.faults.values()) == 1
    Image.new("RGB", (24, 16), "green").save(folder / "b.png")
    assert [row.right for row in score(folder, tmp_path / "out").rows] == [True, True]


def test_a_picture_of_the_same_name_in_another_benchmark_is_another_picture(tmp_path):
    asker = tiny_asker(scorer=brightness_scorer)
    whole, torn = (write_choices(tmp_path / name, [("a", colour, "red", "blue"), ("b", "red", "red", "blue")])
                   for name, colour in (("whole", "red"), ("torn", "")))  # fmt: skip
    assert len(measure(Choices(whole), asker, tmp_path / "1", progress=False).rows) == 2
    assert len(measure(Choices(torn), asker, tmp_path / "2", progress=False).rows) == 1
