"""The doctor on healthy and on broken data: what it shows is what is trained, and what is wrong it names."""

import json
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from lynx_moe import cli
from lynx_moe.data import SampleBuilder, load_records
from lynx_moe.data.records import Record
from lynx_moe.data.screening import Screen, evenly
from lynx_moe.data.steps import Stepwise
from lynx_moe.doctor import template
from lynx_moe.doctor.findings import Findings
from lynx_moe.doctor.records import look_at_boxes, look_at_record, look_at_records
from lynx_moe.doctor.seen import seen
from lynx_moe.doctor.sheet import of_every_task, target_cell
from lynx_moe.families.dialects import Florence2Dialect, Geometry, PercentDialect, get_dialect
from lynx_moe.grounding import Box, Mask
from tests.data.written import picture, record, small_folder, write_folder
from tests.tiny import tiny_llava_with_processor

GOLD, BLUE = (250, 200, 10), (30, 60, 90)
BOX = (60, 40, 150, 120)


@pytest.fixture(scope="module")
def builder():
    processor = tiny_llava_with_processor()[1]
    return SampleBuilder(processor, get_dialect("percent", processor))


def painted(size=(300, 200), box=BOX) -> Image.Image:
    image = Image.new("RGB", size, BLUE)
    image.paste(GOLD, box)
    return image


SQUARE = {"height": 64, "width": 64}
PINPOINTS = [[64, 128], [128, 64], [128, 128]]
PROCESSORS = {
    "clip": ("CLIPImageProcessorPil", {"size": {"shortest_edge": 64}, "crop_size": SQUARE}),
    "llava": ("LlavaImageProcessorPil", {"do_pad": True, "do_center_crop": False, "size": {"height": 96, "width": 96}}),
    "qwen2_vl": ("Qwen2VLImageProcessorPil", {"min_pixels": 28 * 28 * 4, "max_pixels": 28 * 28 * 400}),
    "pixtral": ("PixtralImageProcessorPil", {"size": {"longest_edge": 128}}),
    "llava_next": (
        "LlavaNextImageProcessorPil",
        {"size": {"shortest_edge": 64}, "crop_size": SQUARE, "image_grid_pinpoints": PINPOINTS},
    ),
    "smolvlm": ("SmolVLMImageProcessorPil", {"size": {"longest_edge": 256}, "max_image_size": {"longest_edge": 64}}),
    "internvl": ("GotOcr2ImageProcessorPil", {"size": SQUARE, "crop_to_patches": True}),
    "gemma3": (
        "Gemma3ImageProcessorPil",
        {"size": SQUARE, "do_pan_and_scan": True, "pan_and_scan_min_crop_size": 32, "pan_and_scan_max_num_crops": 4,
         "pan_and_scan_min_ratio_to_activate": 1.2},
    ),
}  # fmt: skip


def stands_on_gold(view, box) -> float:
    """Share of gold among the pixels inside `box`, times the share of gold that lies inside."""
    gold = torch.tensor(list(view.convert("RGB").getdata())).view(view.height, view.width, 3)
    gold = (gold - torch.tensor(GOLD)).abs().sum(-1) < 120
    x1, y1, x2, y2 = (round(v) for v in box)
    inside = gold[max(0, y1) : y2, max(0, x1) : x2]
    return (inside.float().mean() * inside.sum() / gold.sum()).item()


@pytest.mark.parametrize("family", PROCESSORS)
def test_target_lies_on_the_thing_in_the_very_pixels_that_the_model_gets(family):
    name, arguments = PROCESSORS[family]
    processor = types.SimpleNamespace(image_processor=getattr(transformers, name)(**arguments))
    dialect = get_dialect("percent", processor)

    def pixels(image):
        return dict(processor.image_processor(images=image, return_tensors="pt"))

    image = painted()
    view = seen(types.SimpleNamespace(processor=processor, dialect=dialect, pixels=pixels), image)
    box = dialect.decode(dialect.encode(BOX, image.size), image.size).boxes[0]
    assert view.exact and stands_on_gold(view.image, view.place(box, dialect.geometry, image.size)) > 0.85


def test_a_dialect_that_is_wrong_about_the_frame_shows(builder):
    """The processor pads to a square; a dialect that counts in the picture itself puts the box elsewhere."""
    processor = builder.processor
    believes = SampleBuilder(processor, PercentDialect(Geometry()))
    for each, on_it in ((builder, True), (believes, False)):
        image = painted((300, 100), (20, 5, 90, 40))
        view = seen(each, image)
        box = each.dialect.decode(each.dialect.encode((20, 5, 90, 40), image.size), image.size).boxes[0]
        assert (stands_on_gold(view.image, view.place(box, each.dialect.geometry, image.size)) > 0.6) is on_it


def test_unknown_pixels_are_said_to_be_not_the_models_own(builder):
    odd = types.SimpleNamespace(
        processor=builder.processor, dialect=builder.dialect, pixels=lambda image: {"flattened_patches": torch.ones(2)}
    )
    view = seen(odd, painted((40, 20)))
    assert not view.exact and "not the model's own pixels" in view.how and view.image.size == (40, 40)


def test_sheet_takes_every_task_and_draws_steps_too(builder, tmp_path):
    records = load_records(small_folder(tmp_path), "train")
    chosen = of_every_task(records, 4)
    assert len({records[k].task for k in chosen}) == 4 and all(records[k].is_grounding for k in chosen)
    stepwise = next(r for r in records if r.steps)
    cell, _ = target_cell(builder, stepwise)
    assert len(cell.truth) == 2 and cell.asked.endswith("step-by-step.") and cell.note.startswith("Step 1:")


def test_what_is_marked_is_exactly_what_is_learned(builder, tmp_path):
    records = load_records(small_folder(tmp_path), "train")
    places = template.one_of_each(records)
    assert {kind: records[k].task for kind, k in places.items()} == {
        "grounding": "find_one", "stepwise": "relation", "understanding": "count",
    }  # fmt: skip
    for kind, position in places.items():
        (shown,) = template.marked(builder, records[position], kind)
        assert not shown.wrong and shown.after == "" and shown.before.count("<image>") == 1
        assert shown.plain().endswith("</s>]]")
    (shown,) = template.marked(builder, records[2], "understanding")
    assert shown.learned == " 2</s>"


def test_steps_that_are_learned_apart_are_shown_apart_and_make_the_whole_answer(builder, tmp_path):
    stepping = SampleBuilder(builder.processor, builder.dialect, mark_steps=True)
    record = next(r for r in load_records(small_folder(tmp_path), "train") if r.steps)
    shown = template.marked(stepping, record, "stepwise", Stepwise("faithful"))
    assert len(shown) == 2 and not shown[0].wrong and shown[0].learned.strip().startswith("Step 1:")
    assert "Step 1:" in shown[1].before and shown[1].learned.strip().startswith("Step 2:")


@pytest.mark.parametrize("spoil", ["early", "late", "endless"])
def test_a_mask_that_covers_something_else_is_found(builder, tmp_path, monkeypatch, spoil):
    record = load_records(small_folder(tmp_path), "train")[2]
    sample = SampleBuilder.sample

    def spoilt(self, tokens, sizes):
        made = sample(self, tokens, sizes)
        learned = (made["labels"] != -100).nonzero().flatten()
        first, last = learned[0], learned[-1]
        if spoil == "early":
            made["labels"][first - 2] = made["input_ids"][first - 2]
            made["labels"][first - 1] = made["input_ids"][first - 1]
        made["labels"][first + 1 if spoil == "late" else last] = -100 if spoil != "early" else made["labels"][last]
        return made

    monkeypatch.setattr(SampleBuilder, "sample", spoilt)
    assert template.marked(builder, record, "understanding")[0].wrong


BROKEN = {
    "duplicate_id": {"id": "good"},
    "empty_answer": {"answer": " ", "kind": "understanding", "boxes": []},
    "picture_token": {"question": "Find the <image>."},
    "unwritable": {"boxes": []},
    "unwritable, no box": {"boxes": [[4.0, 4.0, 20.0]]},
    "outside": {"boxes": [[-9.0, 2.0, 20.0, 20.0]]},
    "unknown_token": {"answer": "The zebra is at {box:0}."},
    "too_long": {"question": "Find the cat. " * 100},
}


@pytest.mark.parametrize("kind", BROKEN)
def test_each_kind_of_bad_record_is_found_by_its_id(builder, tmp_path, kind):
    good = {"image_id": "a", "boxes": [[4.0, 4.0, 20.0, 20.0]]}
    rows = [record(0, **good, id="good"), record(1, **{**good, "id": "bad", **BROKEN[kind]})]
    records = load_records(write_folder(tmp_path, [(rows, [picture("a", (48, 32))])]), "train")
    findings = Findings()
    look_at_records(records, evenly(len(records)), Screen(builder, max_positions=200), findings)
    kind = kind.partition(",")[0]
    assert dict(findings.counts) == {kind: 1}, findings.as_json()
    assert findings.examples[kind][0].startswith("good" if kind == "duplicate_id" else "bad")


def test_crops_are_found_whole_and_half(builder, tmp_path):
    # Of a 48 x 32 picture the middle 16 columns are seen.
    cropping = SampleBuilder(builder.processor, PercentDialect(Geometry(resize={"shortest_edge": 32}, crop=(32, 16))))
    boxes = {"gone": [0.0, 0.0, 9.0, 9.0], "half": [2.0, 2.0, 19.0, 30.0], "there": [20.0, 2.0, 30.0, 30.0]}
    rows = [record(k, id=name, image_id="a", boxes=[box]) for k, (name, box) in enumerate(boxes.items())]
    records = load_records(write_folder(tmp_path, [(rows, [picture("a", (48, 32))])]), "train")
    findings = Findings()
    look_at_records(records, [0, 1, 2], Screen(cropping), findings)
    assert findings.examples["half_hidden"] == ["half"] and findings.examples["hidden"][0].startswith("gone")
    assert findings.counts.total() == 2


MASKED = Record(
    id="m", question="Segment it.", answer="It is {mask:0}.", kind="grounding", task="segment_one", size=(300, 200),
    boxes=(tuple(map(float, BOX)),), load=lambda: painted(), image_id="m",
)  # fmt: skip


def thing_mask(box=BOX, size=(300, 200)):
    array = np.zeros(size[::-1], bool)
    array[box[1] : box[3], box[0] : box[2]] = True
    return Mask.of_array(array)


@pytest.mark.parametrize(
    "dialect", [PercentDialect().with_mask_word("[SEG]"), Florence2Dialect()], ids=["word", "outline"]
)
def test_masks_that_the_answer_speaks_of_are_painted_and_read_back(builder, dialect):
    speaking = SampleBuilder(builder.processor, dialect)
    record = replace(MASKED, masks=(thing_mask(),))
    cell, view = target_cell(speaking, record)
    plain, _ = target_cell(speaking, replace(record, answer="It is {box:0}."))
    changed = np.any(np.asarray(cell.image) != np.asarray(plain.image), axis=-1)
    there = view.place(Box(*record.boxes[0]), dialect.geometry, record.size)
    x1, y1, x2, y2 = map(round, there)
    inside = changed[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
    assert inside.mean() > 0.9 and changed.sum() < 2 * inside.size
    findings = Findings()
    look_at_boxes(record, Screen(speaking), findings)
    assert not findings.counts


def test_empty_masks_and_outlines_that_are_no_masks_are_found(builder, monkeypatch):
    speaking = SampleBuilder(builder.processor, PercentDialect().with_mask_word("[SEG]"))
    findings = Findings()
    look_at_boxes(replace(MASKED, masks=(thing_mask((0, 0, 0, 0)),)), Screen(speaking), findings)
    assert dict(findings.counts) == {"empty_mask": 1}
    monkeypatch.setattr(
        Florence2Dialect, "encode_mask", lambda *given: "<poly><loc_1><loc_1><loc_9><loc_1><loc_9><loc_9></poly>"
    )
    look_at_boxes(
        replace(MASKED, masks=(thing_mask(),)), Screen(SampleBuilder(builder.processor, Florence2Dialect())), findings
    )
    assert dict(findings.counts) == {"empty_mask": 1, "not_read_back": 1}


@pytest.mark.parametrize(
    "dialect", [PercentDialect().with_mask_word("[SEG]"), Florence2Dialect()], ids=["word", "outline"]
)
def test_only_masks_that_the_answer_speaks_of_are_looked_at(builder, dialect):
    screen, findings = Screen(SampleBuilder(builder.processor, dialect)), Findings()
    more = ((0.0, 0.0, 290.0, 190.0),) * 2
    masks = thing_mask(), thing_mask((0, 0, 290, 190)), thing_mask((0, 0, 0, 0))
    look_at_boxes(replace(MASKED, boxes=(*MASKED.boxes, *more), masks=masks), screen, findings)
    assert not findings.counts


def test_a_mask_that_cannot_be_decoded_is_a_finding(builder):
    screen = Screen(SampleBuilder(builder.processor, PercentDialect().with_mask_word("[SEG]")))
    findings = Findings()
    look_at_record(replace(MASKED, masks=(Mask(MASKED.size, "zz"),)), screen, findings)
    assert dict(findings.counts) == {"unwritable": 1}


def test_command_says_healthy_and_trains_nothing_that_stays(base_folder, data_folder, tmp_path, capsys):
    out, result = tmp_path / "doctor", tmp_path / "r.json"
    given = [
        "model=path", f"model.path={base_folder}", "data=folder", f"data.folder={data_folder}", "trainer.batch_size=4",
        "trainer.epochs=2", "trainer.max_steps=null", f"output_dir={tmp_path}/run",
    ]  # fmt: skip
    assert cli.main(["doctor", *given, "--out", str(out), "--json", str(result), "--pictures", "3"]) == 0
    found = json.loads(result.read_text())
    assert found["ok"] and found["findings"] == [] and found["sheet"]["pictures"] == 3
    assert found["tokens"]["positions"] == 512 and found["tokens"]["picture"]["max"] == 16
    assert found["tokens"]["all"]["max"] == found["tokens"]["longest"][0]["tokens"]
    cost = found["cost"]
    assert cost["steps"] == 12 and cost["seconds"] == pytest.approx(12 * cost["seconds_per_step"])
    memory = cost["memory"]
    assert memory["optimiser"] == 2 * memory["adapter"] and memory["peak"] > memory["base"] > 0
    assert sorted(p.name for p in out.iterdir()) == ["doctor.json", "sheet.png"] and not (tmp_path / "run").exists()
    shown = capsys.readouterr().out
    assert "[[" in shown and "nothing is wrong" in shown and "512 positions" in shown


def test_command_fails_on_bad_records_and_lists_them_even_when_all_are_bad(base_folder, tmp_path, capsys):
    rows = [record(k, id=f"bad{k}", image_id="a", boxes=[]) for k in range(3)]
    folder = write_folder(tmp_path / "data", [(rows, [picture("a", (48, 32))])])
    given = ["model=path", f"model.path={base_folder}", "data=folder", f"data.folder={folder}"]
    assert cli.main(["doctor", *given, "--out", str(tmp_path / "out")]) == 1
    assert "bad0" in capsys.readouterr().out
    found = json.loads(Path(tmp_path, "out", "doctor.json").read_text())
    assert [(f["kind"], f["count"]) for f in found["findings"]] == [("unwritable", 3)] and found["cost"] is None


def test_packed_rows_are_counted_and_measured_too(base_folder, data_folder, tmp_path):
    given = ["model=path", f"model.path={base_folder}", "data=folder", f"data.folder={data_folder}",
             "data.pack_tokens=120", "trainer.batch_size=2", "model.attention=eager"]  # fmt: skip
    assert cli.main(["doctor", *given, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "doctor.json").read_text())
    assert found["tokens"]["row"]["max"] > found["tokens"]["all"]["max"] and found["cost"]["seconds_per_step"] > 0
