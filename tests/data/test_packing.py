"""Packed rows give every token the logits it has alone; models for which that fails are refused."""

import pytest
import torch
import transformers

from lynx_moe.data import Collator, PackedDataset, SampleBuilder, SampleDataset, load_records
from lynx_moe.data.packing import additive_mask, check_packable, pack
from lynx_moe.errors import FamilyError
from lynx_moe.families.dialects import PercentDialect
from tests.data.written import small_folder
from tests.tiny import CHAT_TEMPLATE, llava_config, tiny_llava_with_processor, tiny_qwen2_5_vl

NOT_FOR_THE_MODEL = ("labels", "is_grounding")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return load_records(small_folder(tmp_path_factory.mktemp("records")), "train")


def logits(model, batch):
    with torch.no_grad():
        return model(**{k: v for k, v in batch.items() if k not in NOT_FOR_THE_MODEL}).logits


def learned(model, batch):
    """Logits (T, V) and targets (T,) of all learned tokens, row by row."""
    here = batch["labels"][:, 1:] != -100
    return logits(model, batch)[:, :-1][here], batch["labels"][:, 1:][here], batch["is_grounding"][:, 1:][here]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_rows_give_the_logits_of_single_records(records, attention):
    model, processor = tiny_llava_with_processor()
    model.set_attn_implementation(attention)
    builder = SampleBuilder(processor, PercentDialect())
    packed, single = PackedDataset(records, builder), SampleDataset(records, builder)
    collate = Collator(processor)
    # All rows in one batch: padding of packed rows is tested with them.
    batch = collate([packed[k] for k in range(len(packed))])
    got, targets, kinds = learned(model, batch)
    expected = [learned(model, collate([single[k]])) for row in packed.rows for k in row]
    assert torch.equal(targets, torch.cat([e[1] for e in expected]))
    assert torch.equal(kinds, torch.cat([e[2] for e in expected]))
    torch.testing.assert_close(got, torch.cat([e[0] for e in expected]), atol=1e-5, rtol=0)


def test_packed_loss_and_gradient_are_the_sum_of_the_single_ones(records):
    model, processor = tiny_llava_with_processor()
    builder = SampleBuilder(processor, PercentDialect())
    packed, single = PackedDataset(records, builder), SampleDataset(records, builder)
    collate = Collator(processor)
    weight = model.model.language_model.layers[0].mlp.up_proj.weight.requires_grad_(True)

    def nats_and_gradient(batches):
        model.zero_grad()
        total = 0.0
        for batch in batches:
            inputs = {k: v for k, v in batch.items() if k != "is_grounding"}
            nats = model(**inputs).loss * (batch["labels"][:, 1:] != -100).sum()
            nats.backward()
            total += nats.item()
        return total, weight.grad.clone()

    nats, gradient = nats_and_gradient([collate([packed[k] for k in range(len(packed))])])
    alone, alone_gradient = nats_and_gradient([collate([single[k]]) for k in range(len(single))])
    assert nats == pytest.approx(alone, rel=1e-5)
    torch.testing.assert_close(gradient, alone_gradient, atol=1e-4, rtol=1e-4)


def test_mask_suits_a_half_precision_model(records):
    model, processor = tiny_llava_with_processor()
    model.to(torch.bfloat16)
    packed = PackedDataset(records, SampleBuilder(processor, PercentDialect()))
    batch = Collator(processor)([packed[0], packed[1]])
    batch["pixel_values"] = batch["pixel_values"].to(torch.bfloat16)
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        assert torch.isfinite(logits(model, batch)).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_rows_stay_right_under_autocast(records, attention):
    """Autocast turns the mask's least float32 into minus infinity; no row may become undefined by that."""
    model, processor = tiny_llava_with_processor()
    model.set_attn_implementation(attention)
    packed = PackedDataset(records, SampleBuilder(processor, PercentDialect()))
    batch = Collator(processor)([packed[k] for k in range(len(packed))])
    right = logits(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = logits(model, batch).float()
    assert (rough - right).abs().mean() < 0.02 * right.abs().mean()


def test_a_boolean_mask_would_be_wrong_under_eager_attention(records):
    """Why the mask is additive floats: transformers adds whatever 4D mask it gets, without a word."""
    model, processor = tiny_llava_with_processor()
    model.set_attn_implementation("eager")
    packed = PackedDataset(records, SampleBuilder(processor, PercentDialect()))
    batch = Collator(processor)([packed[0]])
    right = logits(model, batch)
    batch["attention_mask"] = batch["attention_mask"] == 0
    assert (logits(model, batch) - right).abs().max() > 1e-2


def test_a_row_holds_each_record_of_its_picture_once_and_the_picture_once(records):
    packed = PackedDataset(records, SampleBuilder(tiny_llava_with_processor()[1], PercentDialect()))
    assert sorted(k for row in packed.rows for k in row) == list(range(len(records)))
    row = packed[0]
    assert packed.rows[0] == [0, 1, 2]
    assert (row["input_ids"] == 3).sum() == 16 and row["pixel_values"].shape == (1, 3, 32, 32)
    assert row["segment_ids"].unique().tolist() == [1, 2, 3, 4]


def test_rows_are_filled_up_to_their_tokens_and_no_further(records):
    builder = SampleBuilder(tiny_llava_with_processor()[1], PercentDialect())
    whole = PackedDataset(records, builder, max_tokens=10_000)
    limit = len(whole[0]["input_ids"]) - 1  # one short of what the fullest row needs
    packed = PackedDataset(records, builder, max_tokens=limit)
    assert sorted(k for row in packed.rows for k in row) == sorted(k for row in whole.rows for k in row)
    assert len(packed.rows) > len(whole.rows)
    assert all(len(packed[k]["input_ids"]) <= limit for k in range(len(packed)))


def test_a_record_longer_than_a_row_gets_a_row_of_its_own(records):
    packed = PackedDataset(records, SampleBuilder(tiny_llava_with_processor()[1], PercentDialect()), max_tokens=1)
    assert all(len(row) == 1 for row in packed.rows)


def test_text_only_rows_pack_as_themselves(records):
    packed = PackedDataset(records, SampleBuilder(tiny_llava_with_processor()[1], PercentDialect()))
    row = packed[packed.rows.index([5])]
    assert row["position_ids"].tolist() == list(range(len(row["input_ids"]))) and "pixel_values" not in row


def test_mask_lets_a_token_see_prefix_and_own_segment_only():
    sees = additive_mask(torch.tensor([[1, 1, 2, 2, 3, 0]]))[0, 0] == 0
    assert sees.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_samples_that_differ_in_the_prefix_are_not_packed():
    labels = torch.tensor([-100, -100, -100, 5])
    a, b = ({"input_ids": torch.tensor([1, k, 4, 5]), "labels": labels} for k in (2, 3))
    with pytest.raises(ValueError, match="differ within the first 2"):
        pack([a, b], 2)


def test_an_answer_right_after_the_prefix_is_not_packed():
    a = {"input_ids": torch.tensor([1, 2, 5]), "labels": torch.tensor([-100, -100, 5])}
    with pytest.raises(ValueError, match="begins within"):
        pack([a, a], 2)


def test_template_that_asks_before_it_shows_is_refused(records):
    processor = tiny_llava_with_processor()[1]
    order = "message['content'] %}{% if part"
    assert order in CHAT_TEMPLATE
    processor.chat_template = CHAT_TEMPLATE.replace(order, "message['content']|reverse %}{% if part")
    with pytest.raises(FamilyError, match="before the picture"):
        PackedDataset(records, SampleBuilder(processor, PercentDialect()))


def test_check_passes_llava_with_llama():
    check_packable(tiny_llava_with_processor()[0])


def test_check_refuses_positions_with_several_axes():
    with pytest.raises(FamilyError, match="three axes"):
        check_packable(tiny_qwen2_5_vl()[0])


def test_check_refuses_attention_within_a_window():
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vocab_size": 32, "sliding_window": 4}  # fmt: skip
    config = llava_config()
    config.text_config = transformers.MistralConfig(**text)
    with pytest.raises(FamilyError, match="window of 4|sliding"):
        check_packable(transformers.LlavaForConditionalGeneration(config))


def test_check_refuses_attention_without_4d_masks():
    model = tiny_llava_with_processor()[0]
    model.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(FamilyError, match="no 4D mask"):
        check_packable(model)
