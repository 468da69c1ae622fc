"""The objective `masks` in trainings: one gradient however a step is cut, whole runs, and what they leave behind."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lynx_moe.adapter import set_gate
from lynx_moe.data import Collator, SampleBuilder, SampleDataset, load_records
from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.evaluation import generate_answers
from lynx_moe.families.dialects import get_dialect
from lynx_moe.grounding import Mask
from lynx_moe.grounding.grounder import Grounder
from lynx_moe.loading import load
from lynx_moe.objectives.attached import FILE, attach_objectives, heads_of, is_head
from lynx_moe.objectives.masks import Masks, MaskTargets
from lynx_moe.training import run
from lynx_moe.training.measuring import fingerprint
from lynx_moe.training.objective_settings import MasksSettings, RegionsSettings
from lynx_moe.training.preparing import prepare
from lynx_moe.training.settings import Settings
from tests.data.written import picture, record, write_folder
from tests.families.test_picture_grid import llava_next, qwen2_5_vl
from tests.tiny import CHAT_TEMPLATE, tiny_llava_with_processor
from tests.training.conftest import COLOURS, THINGS, made
from tests.training.test_data_parallel import train
from tests.training.test_run import resumes_to_the_bits
from tests.training.test_trainer import NO_PENALTY, awake, close, gradients, trainer_of

WORD = "[dog]"  # the tiny tokenizer cannot spell "[SEG]"
HEAD = {"weight": 1.0, "bce": 2.0, "dice": 0.5, "channels": 8, "blocks": 1, "word": WORD}


def outlined(first: int, count: int, size=(32, 32)) -> tuple[list[dict], list[dict]]:
    """`count` pictures with a question for one mask, a stepwise one for two and one for none."""
    records, pictures = [], []
    for k in range(first, first + count):
        boxes = [[2.0, 3.0, 9.0 + k % 20, 12.0 + k % 15], [1.0, 1.0, 20.0, 8.0]]
        masks = []
        for x1, y1, x2, y2 in boxes:
            array = np.zeros(size[::-1], bool)
            array[int(y1) : int(y2), int(x1) : int(x2)] = True
            masks.append(Mask.of_array(array).to_coco())
        pictures.append(picture(f"p{k}", size, (40 * k % 256, 20, 90)))
        thing = f"{COLOURS[k % 4]} {THINGS[k % 6]}"
        steps = [{"text": "Find the cat at {mask:0}.", "boxes": boxes[1:], "objects": ["cat"], "masks": masks[1:]}]
        records += [
            record(k, id=f"{k}/segment", image_id=f"p{k}", question=f"Find the {thing}.", task="segment_one",
                   answer="it is at {mask:0}.", boxes=boxes[:1], masks=masks[:1], phrase=thing),
            record(k, id=f"{k}/steps", image_id=f"p{k}", question=f"Find the {thing}.", task="segment_one",
                   answer="it is at {mask:0}.", boxes=boxes[:1], masks=masks[:1], steps=steps),
            record(k, id=f"{k}/what", image_id=f"p{k}", task="identify", kind="understanding", phrase="",
                   question=f"What color is the {thing}?", answer="red"),
        ]  # fmt: skip
    return records, pictures


@pytest.fixture(scope="module")
def mask_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("masks")
    write_folder(folder, [outlined(8, 3)], split="validation")
    return str(write_folder(folder, [outlined(0, 8)]))


def settings_of(base_folder: str, folder: str, out: Path, **trainer) -> Settings:
    settings = made(base_folder, folder, **trainer)
    settings.objective.masks = MasksSettings(weight=1.0, word=WORD, channels=8)
    settings.output_dir = str(out)
    return settings


def parts_of(made_parts, folder: str, tiles: bool = False):
    model, processor = made_parts
    processor.chat_template = CHAT_TEMPLATE
    builder = SampleBuilder(processor, get_dialect("percent", processor, WORD), targets=[MaskTargets(1, tiles)])
    return model, list(SampleDataset(load_records(folder, "train"), builder)), Collator(processor)


@pytest.fixture(scope="module")
def parts(mask_folder):
    return parts_of(tiny_llava_with_processor(), mask_folder)


def headed(vlm, **more):
    model = awake(vlm, **NO_PENALTY)
    attach_objectives(model, {"masks": HEAD | more})
    return model


# ---- the gradient ----


def test_accumulated_gradient_of_experts_and_head_is_that_of_the_joint_batch(parts, tmp_path):
    vlm, samples, collate = parts
    trainer = trainer_of(headed(vlm), tmp_path, collate, retention_kl=1.0)
    joint = gradients(trainer, [collate(samples[:7])])
    # Uneven on purpose, one micro-batch without any mask.
    pieces = gradients(trainer, [collate(samples[:2]), collate(samples[2:3]), collate(samples[3:7])])
    assert all(grad.any() for name, grad in joint.items() if is_head(name))
    close(joint, pieces, rtol=1e-3, atol=1e-5)


def test_gradient_reaches_experts_and_head_and_nothing_of_the_base(parts, tmp_path):
    vlm, samples, collate = parts
    model = headed(vlm)
    model.base_model.lynx_heads["masks"].weights = (1e3, 1e3, 0.0, 0.0)  # so that the answer's own is drowned
    with_head = gradients(trainer_of(model, tmp_path, collate), [collate(samples[:4])])
    without = gradients(trainer_of(awake(vlm, **NO_PENALTY), tmp_path, collate), [collate(samples[:4])])
    experts = [name for name in with_head if "down_EDF" in name]
    assert experts and all(with_head[n].norm() > 10 * without[n].norm() for n in experts)
    assert all(p.grad is None for n, p in model.named_parameters() if "lynx_" not in n)


def test_adapter_off_gives_the_bases_bits_with_the_head_attached(parts):
    vlm, samples, collate = parts
    model = headed(vlm).eval()
    batch = collate(samples[:3])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(model(**inputs).logits, vlm(**inputs).logits)


@pytest.mark.parametrize(
    "make, tiles",
    [(qwen2_5_vl, False), (llava_next, False), (llava_next, True)],
    ids=["merged tokens", "overview", "all tiles"],
)
def test_families_with_merged_tokens_and_tiles_learn_masks(make, tiles, tmp_path):
    folder = write_folder(tmp_path / "data", [outlined(0, 2, (48, 32)), outlined(2, 2, (40, 64))])
    vlm, samples, collate = parts_of(make(), str(folder), tiles)
    model = headed(vlm, tiles=tiles)
    trainer = trainer_of(model, tmp_path, collate)
    batch = collate(samples)
    trained = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)

    def terms() -> dict:
        with torch.no_grad(), set_gate(model, True):
            return trainer.answer_loss(model, batch, trainer.answer_loss.counts(batch)).terms

    before = terms()
    for _ in range(5):
        assert all(grad.isfinite().all() for grad in gradients(trainer, [batch]).values())
        trained.step()
    after = terms()
    assert 0 < after["masks_bce"] < before["masks_bce"] and after["masks_dice"] < before["masks_dice"]


# ---- whole runs ----


@pytest.fixture(scope="module")
def finished(base_folder, mask_folder, tmp_path_factory):
    chosen = {"max_steps": 30, "batch_size": 8, "learning_rate": 1e-2}
    settings = settings_of(base_folder, mask_folder, tmp_path_factory.mktemp("run"), **chosen)
    settings.objective.regions = RegionsSettings(weight=0.1, projection=8)
    settings.objective.stepwise = "packed"
    settings.evaluation.split, settings.evaluation.gate = "validation", "on"
    return settings, run(settings)


def rows_of(settings: Settings) -> list[dict]:
    lines = Path(settings.output_dir, "log.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


def test_masks_are_learned_beside_steps_and_regions_and_the_base_stays(finished):
    settings, card = finished
    rows = rows_of(settings)
    assert {"masks_bce", "masks_dice", "masks_iou", "masks_empty", "regions_contrast"} <= rows[0].keys()
    for name in ("masks_bce", "masks_dice"):
        assert sum(row[name] for row in rows[-5:]) < 0.85 * sum(row[name] for row in rows[:5])
    assert card["base_hash_unchanged"] and card["dead_parameters"] == []


def test_the_card_tells_masks_of_base_and_adapter(finished):
    _, card = finished
    before, after = (card["evaluation"][side]["masks"] for side in ("before", "after"))
    assert before["asked"] == after["asked"] == 6 and before["mean_iou"] == 0
    assert set(after["by_task"]) == {"segment_one"}


def test_a_loaded_run_speaks_masks_and_other_heads_are_left_out(finished, mask_folder):
    settings, _ = finished
    loaded = load(settings.output_dir)
    assert loaded.dialect.mask_word == WORD and set(heads_of(loaded.model)) == {"masks"}
    assert heads_of(loaded.model)["masks"].settings["blocks"] == 1
    record = load_records(mask_folder, "train")[0]
    grounder = Grounder(loaded.model, loaded.processor)
    (answer,) = generate_answers(loaded.model, grounder._builder, [record], progress=False, max_new_tokens=40)
    assert len(answer.masks) == answer.text.count(WORD)
    assert isinstance(grounder.masks(record.image(), record.question), list)


def test_an_adapter_is_exported_with_the_head_that_its_masks_need(finished, base_folder, tmp_path):
    from lynx_moe.export import export

    loaded = load(finished[0].output_dir)
    export(loaded.model, loaded.processor, tmp_path / "out", route="adapter")
    again = load(next(tmp_path.rglob(FILE)).parent, base=base_folder, dialect="percent")
    assert again.dialect.mask_word == WORD and set(heads_of(again.model)) == {"masks"}
    for one, other in zip(
        heads_of(loaded.model)["masks"].parameters(), heads_of(again.model)["masks"].parameters(), strict=True
    ):
        assert torch.equal(one, other)


SHORT = {"batch_size": 8, "max_steps": 6, "save_every": 3, "log_every": 2, "learning_rate": 1e-2}


def test_resumed_run_has_the_bits_of_one_that_never_stopped(base_folder, mask_folder, tmp_path, monkeypatch):
    whole, halves = (settings_of(base_folder, mask_folder, tmp_path / name, **SHORT) for name in ("one", "two"))
    resumes_to_the_bits(whole, halves, monkeypatch, stop=4, resumed_from="checkpoint-3")


@pytest.mark.parametrize("stepwise", ["packed", pytest.param("whole", marks=pytest.mark.slow)])
def test_terms_of_packed_rows_and_of_a_replayed_prefix_are_those_of_single_records(
    base_folder, mask_folder, tmp_path, stepwise
):
    found = []
    for name, more in {
        "plain": {},
        "packed": {"data": {"pack_tokens": 128}},
        "again": {"prefix_cache": "decoder"},
    }.items():
        settings = settings_of(base_folder, mask_folder, tmp_path / name, max_steps=1, batch_size=24, **more)
        settings.trainer.cache_dir = str(tmp_path / "cache")
        settings.objective.stepwise = stepwise
        run(settings)
        found.append(rows_of(settings)[0])
    for name in Masks.terms[:3]:
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4) == pytest.approx(found[2][name], rel=1e-4)
    assert found[0]["masks_bce"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "zero3", "fsdp2"])
def test_processes_that_share_weights_learn_and_measure_masks_together(base_folder, mask_folder, tmp_path, sharding):
    asked = (f"objective.masks.word={WORD!r}", "+objective/extra=masks", f"sharding={sharding}", "trainer.save_every=0",
             "evaluation.split=validation", "trainer.log_every=1")  # fmt: skip
    one = train(1, 8, tmp_path / "one", base_folder, mask_folder, *asked[:2], *asked[3:])
    two = train(2, 4, tmp_path / "two", base_folder, mask_folder, *asked)
    assert two["train"]["last_loss"] == pytest.approx(one["train"]["last_loss"], rel=1e-4)
    assert two["evaluation"]["after"]["masks"]["asked"] == 6


# ---- bad input ----


def test_masks_in_answers_without_the_objective_are_refused_with_the_way_out(base_folder, mask_folder, tmp_path):
    settings = made(base_folder, mask_folder, max_steps=1, data={"kinds": ["grounding"]})
    settings.output_dir = str(tmp_path / "run")
    with pytest.raises(RecordError) as error:
        run(settings)
    assert "mask" in str(error.value)


def test_records_without_masks_are_refused_before_a_step(base_folder, data_folder, tmp_path):
    with pytest.raises(RecordError, match="anything for objective 'masks'") as error:
        run(settings_of(base_folder, data_folder, tmp_path / "run", max_steps=1))
    assert "segment_one" in error.value.fix


def test_the_bases_answers_are_not_shared_where_they_are_read_or_judged_otherwise(base_folder, mask_folder, tmp_path):
    records = list(load_records(mask_folder, "validation"))
    settings = settings_of(base_folder, mask_folder, tmp_path / "run")
    prepared, plain = prepare(settings, quiet=True), prepare(made(base_folder, mask_folder), quiet=True)
    known = fingerprint(settings, prepared, records)
    assert fingerprint(settings, prepared, records) == known != fingerprint(settings, plain, records)
    without = [replace(record, masks=(None,) * len(record.boxes)) for record in records]
    assert fingerprint(settings, prepared, without) != known


def test_an_objective_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="both of its terms weigh 0"):
        MasksSettings(weight=1.0, bce=0.0, dice=0.0)


def test_a_word_that_reads_as_a_place_is_refused(base_folder, mask_folder, tmp_path):
    settings = settings_of(base_folder, mask_folder, tmp_path / "run", max_steps=1)
    settings.objective.masks.word = "SEG"
    with pytest.raises(ConfigError, match="cannot be spelled"):
        run(settings)
