"""Rows that hold records of several pictures, told to the model by a mask or by lengths."""

import pytest
import torch
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from lynx_moe.data import Collator, PackedDataset, SampleBuilder, SampleDataset, load_records
from lynx_moe.data.packing import additive_mask, chain, check_packable, cumulative_lengths, pack
from lynx_moe.errors import FamilyError
from lynx_moe.families.dialects import PercentDialect
from tests.data.test_packing import NOT_FOR_THE_MODEL, learned
from tests.data.written import two_pictures
from tests.tiny import CHAT_TEMPLATE, tiny_llava_with_processor, tiny_qwen2_5_vl


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records about one picture, about two at once, and of text only."""
    return load_records(two_pictures(tmp_path_factory.mktemp("records")), "train")


@pytest.fixture(scope="module")
def llava():
    model, processor = tiny_llava_with_processor()
    return model, SampleBuilder(processor, PercentDialect())


def alone(model, single, collate, rows):
    """Logits, targets and kinds of every record by itself, in the order of the rows."""
    found = [learned(model, collate([single[k]])) for row in rows for k in row]
    return [torch.cat(each) for each in zip(*found, strict=True)]


@pytest.mark.parametrize("max_tokens", [10_000, 120], ids=["one_row", "some_rows"])
@pytest.mark.parametrize("share", [True, False], ids=["shared_prefix", "repeated_picture"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_sequences_give_the_logits_of_single_records(records, llava, attention, share, max_tokens):
    model, builder = llava
    model.set_attn_implementation(attention)
    packed = PackedDataset(records, builder, packing="sequence", max_tokens=max_tokens, share=share)
    assert sorted(k for row in packed.rows for k in row) == list(range(len(records)))
    assert (len(packed) == 1) == (max_tokens > 1000) and any(len(groups) > 1 for groups in packed.groups)
    collate = Collator(builder.processor)
    got, targets, kinds = learned(model, collate([packed[k] for k in range(len(packed))]))
    expected = alone(model, SampleDataset(records, builder), collate, packed.rows)
    assert torch.equal(targets, expected[1]) and torch.equal(kinds, expected[2])
    torch.testing.assert_close(got, expected[0], atol=1e-5, rtol=0)


def test_pictures_stand_in_the_order_of_their_tokens(records, llava):
    _, builder = llava
    packed = PackedDataset(records, builder, packing="sequence", max_tokens=10_000)
    single = SampleDataset(records, builder)
    pixels = [single[group[0]]["pixel_values"] for group in packed.groups[0] if "pixel_values" in single[group[0]]]
    row = packed[0]
    assert torch.equal(row["pixel_values"], torch.cat(pixels)) and len(pixels) == 3
    assert (row["input_ids"] == builder.image_token_id).sum() == 16 * len(row["pixel_values"])


def test_a_group_sees_nothing_of_another():
    sees = additive_mask(torch.tensor([[1, 2, 3, 1, 2, 0]]), torch.tensor([[1, 1, 1, 2, 2, 0]]))[0, 0] == 0
    assert sees.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_rows_are_the_same_every_time_and_within_their_tokens(records, llava):
    _, builder = llava
    one, other = (PackedDataset(records, builder, packing="sequence", max_tokens=150) for _ in range(2))
    assert one.groups == other.groups
    lengths = [len(one[k]["input_ids"]) for k in range(len(one))]
    assert all(length <= 150 for length in lengths)
    # What rows were filled by is what they hold, to the token.
    for share in (True, False):
        packed = PackedDataset(records, builder, packing="sequence", max_tokens=10_000, share=share)
        pieces = [piece for group in records.by_picture() for piece in packed._pieces(group, 10_000)]
        assert len(packed) == 1 and sum(length for _, length in pieces) == len(packed[0]["input_ids"])


def test_a_template_that_asks_before_it_shows_repeats_the_picture(records):
    model, processor = tiny_llava_with_processor()
    processor.chat_template = CHAT_TEMPLATE.replace(
        "message['content'] %}{% if part", "message['content']|reverse %}{% if part"
    )
    builder = SampleBuilder(processor, PercentDialect())
    packed = PackedDataset(records, builder, packing="sequence", max_tokens=10_000)
    assert all(len(group) == 1 for group in packed.groups[0])
    collate = Collator(processor)
    expected = alone(model, SampleDataset(records, builder), collate, packed.rows)
    torch.testing.assert_close(learned(model, collate([packed[0]]))[0], expected[0], atol=1e-5, rtol=0)


def end_to_end(records, builder):
    packed = PackedDataset(records, builder, packing="sequence", max_tokens=150, share=False)
    rows = [packed[k] for k in range(len(packed))]
    return packed, rows, Collator(builder.processor, end_to_end=True, with_lengths=True)(rows)


def test_lengths_are_those_that_transformers_reads_from_the_positions(records, llava):
    packed, rows, batch = end_to_end(records, llava[1])
    single = SampleDataset(records, llava[1])
    lengths = [len(single[k]["input_ids"]) for row in packed.rows for k in row]
    bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == bounds
    assert batch["max_length_q"] == batch["max_length_k"] == max(lengths) and isinstance(batch["max_length_q"], int)
    assert batch["position_ids"].tolist() == [[k for length in lengths for k in range(length)]]
    (theirs, _), (longest, _) = prepare_fa_kwargs_from_position_ids(batch["position_ids"])
    assert torch.equal(theirs, batch["cu_seq_lens_q"]) and theirs.dtype == batch["cu_seq_lens_q"].dtype
    assert longest == batch["max_length_q"]
    assert "attention_mask" not in batch and "segment_ids" not in batch and "group_ids" not in batch


def test_lengths_and_mask_say_the_same(records, llava):
    """Attention within the bounds of the lengths, token by token, is where the mask of the same rows lets look."""
    _, rows, batch = end_to_end(records, llava[1])
    bounds = batch["cu_seq_lens_q"].tolist()
    total = batch["input_ids"].shape[1]
    by_lengths = torch.zeros(total, total, dtype=torch.bool)
    for begin, end in zip(bounds, bounds[1:], strict=False):
        by_lengths[begin:end, begin:end] = torch.ones(end - begin, end - begin).tril().bool()
    joined = chain(rows)
    # `chain` numbers whole rows; within a row its own groups count.
    own = torch.cat([row["group_ids"] + 1000 * k for k, row in enumerate(rows)])
    assert torch.equal(additive_mask(joined["segment_ids"][None], own[None])[0, 0] == 0, by_lengths)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_rows_without_a_mask_give_the_logits_of_single_records(records, llava, attention):
    """transformers makes a block-diagonal mask of positions that start anew; flash attention is told the same."""
    model, builder = llava
    model.set_attn_implementation(attention)
    packed, _, batch = end_to_end(records, builder)
    lengths = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
    inputs = {k: v for k, v in batch.items() if k not in (*NOT_FOR_THE_MODEL, *lengths)}
    here = batch["labels"][0, 1:] != -100
    with torch.no_grad():
        # With a cache transformers looks for no packed positions.
        got = model(**inputs, use_cache=False).logits[0, :-1][here]
    expected = alone(model, SampleDataset(records, builder), Collator(builder.processor), packed.rows)
    torch.testing.assert_close(got, expected[0], atol=1e-5, rtol=0)


def test_flash_attention_is_let_through_for_lengths_only():
    model = tiny_llava_with_processor()[0]
    model.config.text_config._attn_implementation = "flash_attention_2"
    check_packable(model, lengths=True)
    with pytest.raises(FamilyError, match="no 4D mask"):
        check_packable(model)


def test_positions_with_several_axes_are_refused_for_lengths_too():
    with pytest.raises(FamilyError, match="three axes"):
        check_packable(tiny_qwen2_5_vl()[0], lengths=True)


def test_a_single_sequence_has_two_bounds():
    assert cumulative_lengths(torch.arange(4))["cu_seq_lens_q"].tolist() == [0, 4]


def test_chained_rows_of_other_tile_counts_are_filled_up():
    sample = {
        "input_ids": torch.tensor([1, 2]),
        "labels": torch.tensor([-100, 2]),
        "is_grounding": torch.ones(2).bool(),
    }
    tiles = [torch.ones(1, count, 3, 4, 4) for count in (2, 3)]
    row = chain([pack([dict(sample)], 0) | {"pixel_values": each} for each in tiles])
    assert row["pixel_values"].shape == (2, 3, 3, 4, 4) and row["pixel_values"][0, 2].abs().sum() == 0
    assert row["group_ids"].tolist() == [1, 1, 2, 2] and row["position_ids"].tolist() == [0, 1, 0, 1]
