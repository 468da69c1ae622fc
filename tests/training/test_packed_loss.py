"""What is learned from packed rows is what is learned without packing: loss, gradients, retention, telemetry."""

import pytest
import torch

from lynx_moe.data import Collator, PackedDataset, SampleBuilder, SampleDataset, load_records
from lynx_moe.families.dialects import get_dialect
from lynx_moe.training import run
from lynx_moe.training.loss import rows_of
from tests.data.written import two_pictures
from tests.tiny import tiny_llava_with_processor
from tests.training.test_trainer import NO_PENALTY, awake, close, gradients, loss_of, trainer_of, vlm_of


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Both kinds of records, one of them about two pictures, one of text only."""
    vlm, processor = tiny_llava_with_processor()
    builder = SampleBuilder(processor, get_dialect("percent", processor), mark_boxes=True)
    return vlm, builder, load_records(two_pictures(tmp_path_factory.mktemp("records")), "train"), Collator(processor)


@pytest.mark.parametrize("packing", ["picture", "sequence"])
def test_loss_and_gradients_over_a_data_set_are_those_of_single_records(parts, tmp_path, packing):
    vlm, builder, records, collate = parts
    assert {record.is_grounding for record in records} == {True, False}
    trainer = trainer_of(awake(vlm, **NO_PENALTY).eval(), tmp_path, collate, retention_kl=0.7, box_weight=3.0)
    single = SampleDataset(records, builder)
    packed = PackedDataset(records, builder, packing=packing, max_tokens=200)
    rows = collate([packed[k] for k in range(len(packed))])
    alone = [collate([single[k]]) for k in range(len(single))]
    close(gradients(trainer, [rows]), gradients(trainer, alone), rtol=1e-3, atol=1e-5)
    # Summed nats: each record's mean times its weight in the mean over all.
    shares = [trainer.answer_loss.counts(batch) / trainer.answer_loss.counts(rows) for batch in alone]
    grounding, retention = torch.stack(shares).T.tolist()
    kinds = [bool(batch["is_grounding"].any()) for batch in alone]
    weights = [g if kind else r for g, r, kind in zip(grounding, retention, kinds, strict=True)]
    expected = sum(loss_of(trainer, batch) * weight for batch, weight in zip(alone, weights, strict=True))
    assert loss_of(trainer, rows) == pytest.approx(expected, rel=1e-5)


def test_base_is_asked_for_whole_batches_where_rows_hold_several_pictures(parts, tmp_path):
    """A row's pictures cannot be cut out by rows, so nothing is, though as many pictures as rows may be there."""
    vlm, builder, records, collate = parts
    trainer = trainer_of(awake(vlm, **NO_PENALTY).eval(), tmp_path, collate, retention_kl=0.7)
    packed = PackedDataset(records, builder, packing="sequence", max_tokens=10_000)
    text = next(k for k, record in enumerate(records) if not record.has_image)
    seen = []
    handle = vlm_of(trainer).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    lonely = PackedDataset(records.select([text] * 3), builder, packing="sequence", max_tokens=1)
    batch = collate([packed[0], *(lonely[k] for k in range(3))])
    assert len(batch["input_ids"]) == len(batch["pixel_values"]) == 4  # a row with four pictures, three with none
    assert loss_of(trainer, batch) > 0 and seen == [4, 4]
    handle.remove()
    lengths = {"input_ids": torch.zeros(1, 4), "cu_seq_lens_q": torch.zeros(3), "max_length_q": 4}
    assert rows_of(lengths, torch.tensor([True])) is None


@pytest.mark.parametrize("packing", ["none", "sequence"])
def test_a_run_packs_as_its_settings_say(settings, packing):
    chosen = settings(max_steps=2, retention_kl=1.0, data={"pack_tokens": 120, "packing": packing})
    card = run(chosen)
    assert card["train"]["steps"] == 2 and card["train"]["last_retention_kl"] >= 0
