"""Winoground and NaturalBench: readers of the true files, and the published comparisons over random scores."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lynx_moe.errors import RecordError
from lynx_moe.evaluation.protocols import PROTOCOLS, Reply
from tests.evaluation.protocols.understanding import (
    ask_all,
    picture_bytes,
    put_json,
    put_lines,
    put_pictures,
    random_scores,
)

TAGS = [("Adjective-Age", "", 1, "Relation"), ("Noun", "Symbolic, Series", 2, "Object"), ("Noun", "Series", 1, "Both")]


def rows(n=12):
    return [
        {
            "id": k, "caption_0": f"{k} kisses x", "caption_1": f"x kisses {k}",
            "image_0": f"ex_{k}_img_0", "image_1": f"ex_{k}_img_1", "tag": tag, "secondary_tag": second,
            "num_main_preds": predicates, "collapsed_tag": collapsed,
        }
        for k in range(n) for tag, second, predicates, collapsed in [TAGS[k % 3]]
    ]  # fmt: skip


@pytest.fixture
def winoground(tmp_path):
    put_lines(tmp_path / "data/examples.jsonl", rows())
    put_pictures(tmp_path, *(f"data/images/ex_{k}_img_{i}.png" for k in range(12) for i in (0, 1)))
    return PROTOCOLS.get("winoground")(folder=tmp_path)


def published(scores):
    """(text, image, group) as in Winoground's notebook; scores of c0_i0, c1_i0, c0_i1, c1_i1."""
    c0_i0, c1_i0, c0_i1, c1_i1 = scores
    text = c0_i0 > c1_i0 and c1_i1 > c0_i1
    image = c0_i0 > c0_i1 and c1_i1 > c1_i0
    return text, image, text and image


def test_numbers_are_those_of_the_published_comparisons(winoground):
    found, scores = random_scores(winoground)
    summary = winoground.summarise(found)
    for place, name in enumerate(("text", "image", "group")):
        assert summary[name] == pytest.approx(sum(published(s)[place] for s in scores.values()) / 12)
        low, high = summary["interval"][name]
        assert low <= summary[name] <= high
        series = [published(s)[place] for key, s in scores.items() if int(key) % 3]
        assert summary["by_secondary_tag"]["Series"][name] == pytest.approx(sum(series) / 8)
    assert summary["chance"] == {"text": 0.25, "image": 0.25, "group": pytest.approx(1 / 6)}
    assert {part: numbers["n"] for part, numbers in summary["by_group"].items()} == {"Adjective-Age": 4, "Noun": 8}
    assert summary["by_num_main_preds"]["2"]["n"] == summary["by_collapsed_tag"]["Both"]["n"] == 4
    assert summary["by_secondary_tag"]["Symbolic"]["n"] == 4
    assert json.loads(json.dumps(summary)) == summary


def test_every_row_is_as_the_published_comparisons_have_it(winoground):
    for seed in range(20):
        found, scores = random_scores(winoground, seed, ties=seed % 2 == 0)
        for row in found:
            numbers = tuple(row.numbers[name] for name in ("text", "image", "group"))
            assert numbers == published(scores[row.id]) and row.right == published(scores[row.id])[2]


def test_asks_are_caption_by_picture_in_the_order_that_the_verdict_reads(winoground):
    item = next(winoground.items())
    assert [(ask.text, ask.image_id) for ask in item.asks] == [
        ("0 kisses x", "ex_0_img_0"), ("x kisses 0", "ex_0_img_0"), ("0 kisses x", "ex_0_img_1"),
        ("x kisses 0", "ex_0_img_1"),
    ]  # fmt: skip
    assert item.asks[0].load().size == (6, 4)


def test_who_is_right_is_right_and_who_says_the_same_to_all_is_wrong(winoground):
    right = ask_all(winoground, lambda ask: float((ask.image_id[-1] == "0") == ask.text.endswith(" x")))
    assert winoground.summarise(right)["group"] == 1 and all(row.right for row in right)
    same = ask_all(winoground, lambda ask: 0.5)
    assert all(winoground.summarise(same)[name] == 0 for name in ("text", "image", "group"))


def test_a_missing_score_is_wrong_and_counted(winoground):
    item = next(winoground.items())
    row = winoground.judge(item, [Reply(score=1.0), Reply(), Reply(score=float("nan")), Reply(score=1.0)])
    assert row.right is False and row.errors == {"score is not a number": 2}


def test_the_hubs_parquet_with_pictures_inside_reads_as_the_lines_do(tmp_path, winoground):
    held = [
        {**row, **{f"image_{i}": {"bytes": picture_bytes(), "path": f"ex_{row['id']}_img_{i}.png"} for i in (0, 1)}}
        for row in rows()
    ]
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(held), folder / "data/test-00000-of-00001.parquet")
    other = PROTOCOLS.get("winoground")(folder=folder)
    assert other.summarise(random_scores(other)[0]) == winoground.summarise(random_scores(winoground)[0])


def test_bad_rows_are_left_out_and_counted(tmp_path):
    good = rows(4)
    put_lines(
        tmp_path / "examples.jsonl", [*good, good[0], {**good[1], "id": "one"}, "{", {**good[2], "caption_0": None}]
    )
    put_pictures(tmp_path, *(f"images/ex_{k}_img_{i}.png" for k in range(3) for i in (0, 1)))
    protocol = PROTOCOLS.get("winoground")(folder=str(tmp_path))
    assert [item.id for item in protocol.items()] == ["0", "1", "2"]
    assert protocol.faults == {
        "missing picture": 2, "duplicate id": 1, "row without a usable id": 1, "unreadable row": 1,
        "row without a usable caption_0": 1,
    }  # fmt: skip
    assert [item.id for item in protocol.items()] == ["0", "1", "2"] and protocol.faults["duplicate id"] == 1


def test_naturalbench_is_scored_alike(tmp_path):
    metadata = [
        {"index": k, "image_0": f"{k}_a.jpg", "image_1": f"{k}_b.jpg", "caption_0": "a", "caption_1": "b"}
        for k in range(9)
    ]
    put_json(tmp_path / "metadata.json", metadata)
    put_pictures(tmp_path, *(f"images/{k}_{i}.jpg" for k in range(9) for i in "ab"))
    protocol = PROTOCOLS.get("naturalbench")(folder=tmp_path)
    found, scores = random_scores(protocol, ties=False)
    for place, name in enumerate(("text", "image", "group")):
        assert protocol.summarise(found)[name] == pytest.approx(sum(published(s)[place] for s in scores.values()) / 9)


def test_a_folder_without_the_file_or_without_an_item_is_refused(tmp_path):
    protocol = PROTOCOLS.get("winoground")(folder=tmp_path)
    with pytest.raises(RecordError, match="examples.jsonl"):
        list(protocol.items())
    put_lines(tmp_path / "examples.jsonl", rows(1))
    with pytest.raises(RecordError, match="nothing to ask") as caught:
        list(protocol.items())
    assert "2 x missing picture" in caught.value.why
