"""Records that a model cannot learn from are left out, counted and named, and a place never stays empty."""

import pytest

from lynx_moe.data import Collator, PackedDataset, SampleBuilder, SampleDataset, load_records, screening
from lynx_moe.data.screening import evenly
from lynx_moe.errors import RecordError
from lynx_moe.families.dialects import Geometry, PercentDialect
from tests.data.written import picture, record, write_folder
from tests.tiny import tiny_llava_with_processor

LONG = " ".join(["Find the red star ."] * 30)
GOOD = {"image_id": "a", "boxes": [[4.0, 4.0, 20.0, 20.0]]}


def records_of(folder, *changes):
    rows = [record(k, **{**GOOD, "id": f"r{k}", **each}) for k, each in enumerate(changes)]
    return load_records(write_folder(folder, [(rows, [picture("a", (48, 32))])]), "train")


@pytest.fixture(scope="module")
def builder():
    return SampleBuilder(tiny_llava_with_processor()[1], PercentDialect())


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Good, too long, good, a placeholder without a box, a picture token in the question, good."""
    return records_of(
        tmp_path_factory.mktemp("mixed"), {}, {"question": LONG}, {}, {"boxes": []}, {"question": "Find <image>."}, {}
    )


@pytest.mark.parametrize("kind", [SampleDataset, PackedDataset])
def test_each_reason_is_counted_and_the_rest_is_trained(mixed, builder, kind):
    dataset = kind(mixed, builder, max_positions=100)
    assert dict(dataset.left_out.counts) == {"too_long": 1, "unwritable": 2} and dataset.dropped == 3
    assert dataset.left_out.checked == 6 and dataset.records.column("id") == ["r0", "r2", "r5"]
    assert all(name in " ".join(dataset.left_out.examples) for name in ("'r1'", "'r3'", "'r4'"))
    assert len(list(dataset)) == len(dataset)


def test_no_limit_on_positions_leaves_long_records_in(mixed, builder):
    assert "too_long" not in SampleDataset(mixed, builder).left_out.counts


def test_share_that_is_lost_is_refused_above_what_is_allowed(mixed, builder):
    left_out = SampleDataset(mixed, builder, max_positions=100).left_out
    left_out.refuse(0.5)
    with pytest.raises(RecordError, match="3 of 6 records cannot be used, the first: record 'r1' is") as caught:
        left_out.refuse(0.4)
    assert "2: the dialect" in caught.value.why and "1: they have more tokens" in caught.value.why


def test_all_lost_is_refused_whatever_is_allowed(tmp_path, builder):
    dataset = SampleDataset(records_of(tmp_path, {"boxes": []}, {"boxes": []}), builder)
    assert len(dataset) == 0
    with pytest.raises(RecordError, match="2 of 2"):
        dataset.left_out.refuse(1.0)


def test_cropped_boxes_have_a_reason_of_their_own(tmp_path):
    # Of a 48 x 32 picture the middle 16 columns are seen.
    dialect = PercentDialect(Geometry(resize={"shortest_edge": 32}, crop=(32, 16)))
    builder = SampleBuilder(tiny_llava_with_processor()[1], dialect)
    records = records_of(tmp_path, {"boxes": [[0.0, 0.0, 9.0, 9.0]]}, {"boxes": [[20.0, 2.0, 30.0, 30.0]]})
    assert dict(SampleDataset(records, builder).left_out.counts) == {"hidden": 1}


def test_what_was_not_looked_at_gives_way_to_the_next_when_it_is_met(mixed, builder, monkeypatch):
    monkeypatch.setattr(screening, "LOOKED_AT", 1)
    monkeypatch.setattr("lynx_moe.data.dataset.evenly", lambda count: evenly(count, 1))
    dataset = SampleDataset(mixed, builder, max_positions=100, traced=True)
    assert dataset.left_out.checked == 1 and len(dataset) == 6 and not dataset.dropped
    held = [(sample["record_rows"].tolist(), sample.get("left_out")) for sample in dataset]
    assert [rows for rows, _ in held] == [[0], [2], [2], [5], [5], [5]]
    assert [None if passed is None else passed.tolist() for _, passed in held] == [None, [1], None, [3, 4], [4], None]
    batch = Collator(builder.processor)([dataset[1], dataset[3]])
    assert batch["left_out"].tolist() == [1, 3, 4] and batch["record_rows"].tolist() == [[2], [5]]
    lengths = [len(dataset[k]["input_ids"]) for k in (1, 3)]
    assert batch["num_tokens"].tolist() == lengths
    with pytest.raises(IndexError):
        dataset[6]


def test_a_long_run_of_bad_records_ends_in_an_error_that_names_one(tmp_path, builder, monkeypatch):
    monkeypatch.setattr("lynx_moe.data.dataset.evenly", lambda count: evenly(count, 1))
    monkeypatch.setattr(screening, "TRIES", 2)
    dataset = SampleDataset(records_of(tmp_path, {}, *[{"boxes": []}] * 3), builder)
    with pytest.raises(RecordError, match="2 records in a row cannot be used"):
        dataset[1]


def test_packed_rows_say_all_their_records_and_padding_says_none(tmp_path, builder):
    records = records_of(tmp_path, {}, {}, {"image_id": "", "boxes": [], "answer": "one ."})
    dataset = PackedDataset(records, builder, traced=True)
    batch = Collator(builder.processor)([dataset[0], dataset[1]])
    assert batch["record_rows"].tolist() == [[0, 1], [2, -1]]


def test_positions_are_evenly_spread_over_all():
    assert list(evenly(5, 10)) == [0, 1, 2, 3, 4] and evenly(100, 4) == [0, 25, 50, 75]
