"""Training on records about two pictures of different sizes, through the trainer, and asking the trained model."""

import pytest
import torch

from lynx_moe.adapter import set_gate
from lynx_moe.data import Collator, SampleBuilder, SampleDataset, load_records
from lynx_moe.evaluation import evaluate, evaluation_sheet
from lynx_moe.families.dialects import get_dialect
from lynx_moe.training.loss import one_picture_each
from tests.data.written import two_pictures
from tests.evaluation.test_run import Parrot
from tests.tiny import tiny_llava_with_processor
from tests.training.test_trainer import NO_PENALTY, awake, loss_of, trainer_of


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    model, processor = tiny_llava_with_processor()
    records = load_records(two_pictures(tmp_path_factory.mktemp("records")), "train")
    return model, processor, records, SampleBuilder(processor, get_dialect("percent", processor))


def test_the_trainer_learns_from_them_and_the_trained_model_is_asked(parts, tmp_path):
    vlm, processor, records, builder = parts
    model, collate = awake(vlm), Collator(processor)
    samples = list(SampleDataset(records, builder))
    assert [s["pixel_values"].shape[0] if "pixel_values" in s else 0 for s in samples] == [1, 2, 1, 1, 0]
    trainer = trainer_of(
        model, tmp_path, collate, retention_kl=1.0, train_dataset=samples, num_train_epochs=40, learning_rate=2e-2,
        per_device_train_batch_size=5,
    )  # fmt: skip
    before = loss_of(trainer, collate([samples[1]]))
    trainer.train()
    assert loss_of(trainer, collate([samples[1]])) < 0.8 * before
    with set_gate(model, True):
        result = evaluate(model, processor, records, builder.dialect, max_new_tokens=4, progress=False)
    assert [s["id"] for s in result["samples"]] == records.column("id")
    assert [s.get("picture") for s in result["samples"]] == [None, 1, None, None, None]
    evaluation_sheet(result, records, tmp_path / "sheet.png")


def test_rows_of_two_pictures_and_of_none_are_not_taken_for_rows_of_one(parts, tmp_path):
    """Two pictures and two rows: the base's forward must not take the second picture for the second row's."""
    vlm, processor, records, builder = parts
    trainer = trainer_of(awake(vlm, **NO_PENALTY).eval(), tmp_path, Collator(processor), retention_kl=0.7)
    both, text = builder(records[1]), builder(records[4])
    batch = Collator(processor)([both, text])
    assert len(batch["pixel_values"]) == len(batch["input_ids"]) == 2 and not one_picture_each(batch, vlm)
    assert one_picture_each(Collator(processor)([builder(records[0]), builder(records[3])]), vlm)
    alone = [loss_of(trainer, Collator(processor)([sample])) for sample in (both, text)]
    assert loss_of(trainer, batch) == pytest.approx(sum(alone), rel=1e-4)


def test_generation_sees_both_pictures_in_their_order(parts):
    vlm, processor, records, builder = parts
    asked = records[1]
    sample = builder(asked)
    inputs = {k: v[None] if v.ndim == 1 else v for k, v in sample.items() if k not in ("labels", "is_grounding")}
    with torch.no_grad():
        right = vlm(**inputs).logits
        swapped = vlm(**inputs | {"pixel_values": inputs["pixel_values"].flip(0)}).logits
    assert (right - swapped).abs().max() > 1e-2  # else no test could tell
    parrot = Parrot(builder, records)
    result = evaluate(parrot, processor, records, builder.dialect, progress=False)
    assert all(s["right"] for s in result["samples"]) and result["grounding"]["steps"]["acc50"] == 1.0
