"""A base without a vision tower, Fuyu, all the way: samples as its processor's, training, objectives, answers."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

from lynx_moe.data import Collator, SampleBuilder, SampleDataset, load_records
from lynx_moe.data.prompts import messages
from lynx_moe.errors import FamilyError
from lynx_moe.families.dialects import Geometry, get_dialect
from lynx_moe.families.picture_grid import picture_grid
from lynx_moe.objectives.attached import FILE
from lynx_moe.training import run
from lynx_moe.training.distil_settings import DistilSettings, HighTeacherSettings, TeacherSettings
from lynx_moe.training.objective_settings import MasksSettings, RegionsSettings
from tests.data.written import write_folder
from tests.objectives.teachers.tiny_teachers import dinov2
from tests.objectives.teachers.tiny_teachers import made as made_teacher
from tests.tiny_fuyu import fuyu_cuts, tiny_fuyu_with_processor  # noqa: F401
from tests.training.conftest import made, saved, written_records
from tests.training.test_masks import outlined

pytestmark = pytest.mark.usefixtures("fuyu_cuts")


@pytest.fixture(scope="module")
def fuyu_folder(tmp_path_factory) -> str:
    return saved(tmp_path_factory.mktemp("fuyu"), *tiny_fuyu_with_processor())


@pytest.fixture(scope="module")
def records_folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("data")
    parts = []
    for first, count in ((12, 5), (0, 12)):
        records, pictures = written_records(first, count)
        for record in records:
            if record["kind"] == "grounding":
                record["phrase"] = record["question"].removeprefix("Find the ").removesuffix(".")
        parts.append((records, pictures))
    write_folder(folder, parts[:1], split="validation")
    return str(write_folder(folder, parts[1:]))


def builder() -> SampleBuilder:
    processor = tiny_fuyu_with_processor()[1]
    return SampleBuilder(processor, get_dialect("percent", processor))


def test_a_prompt_is_token_for_token_what_the_processor_makes_in_one_call(records_folder):
    made_by = builder()
    for record in list(load_records(records_folder, "train"))[:4]:
        ids = made_by.spread(made_by.prompts([record])[0], record.sizes)
        expected = made_by.processor(
            images=record.image(), text=f"{record.question}\n", return_tensors="pt", return_legacy_image_output=False
        )
        assert ids.tolist() == expected["input_ids"][0].tolist()
        assert torch.equal(made_by.pixels(record.image())["pixel_values"], expected["pixel_values"])


def test_an_answer_follows_where_answers_begin_and_ends_once(records_folder):
    made_by = builder()
    record = next(iter(load_records(records_folder, "train")))
    sample = made_by(record)
    learned = made_by.tokenizer.convert_ids_to_tokens(sample["input_ids"][sample["labels"] != -100].tolist())
    before = made_by.tokenizer.convert_ids_to_tokens(sample["input_ids"][sample["labels"] == -100].tolist())
    assert before[-1] == "<0x04>" and before.count("<s>") == 1
    assert learned.count("|ENDOFTEXT|") == 1 and learned[-1] == "|ENDOFTEXT|" and learned[0] == "The"


def test_two_pictures_stand_before_one_beginning(records_folder):
    made_by = builder()
    text = made_by.processor.apply_chat_template(messages("Find", pictures=2, answer=None))
    assert made_by._tokenise(text)[:3] == [made_by.image_token_id] * 2 + [made_by.tokenizer.bos_token_id]


@pytest.mark.parametrize("size", [(24, 16), (30, 20), (96, 60), (200, 40)])
def test_the_window_is_the_patches_and_not_the_picture(size):
    """Each side in pixels of the model's input, by the processor's own count of patches."""
    processor = tiny_fuyu_with_processor()[1]
    grid = picture_grid(processor, size)
    scale = min(1, 40 / size[0], 40 / size[1])
    resized = [int(side * scale) for side in size]
    window = Geometry.from_processor(processor).window(size)
    assert window == grid.window and window[:2] == (0.0, 0.0)
    assert window[2] * resized[0] / size[0] == pytest.approx(8 * grid.columns)
    assert window[3] * resized[1] / size[1] == pytest.approx(8 * grid.rows)


def test_without_torchvision_the_refusal_says_so(monkeypatch):
    from tests.tiny_fuyu import CUTS_ARRAYS

    monkeypatch.setattr(transformers.FuyuImageProcessorPil, "patchify_image", CUTS_ARRAYS)
    with pytest.raises(FamilyError, match="FuyuProcessor cannot cut pictures") as caught:
        builder().picture_ids((24, 16))
    assert "torchvision" in caught.value.fix


def settings_of(fuyu_folder: str, records_folder: str, out: Path, **trainer):
    settings = made(fuyu_folder, records_folder, **trainer)
    settings.output_dir = str(out)
    return settings


def rows_of(settings) -> list[dict]:
    lines = [json.loads(line) for line in Path(settings.output_dir, "log.jsonl").read_text().splitlines()]
    return [row for row in lines if "loss" in row]


def test_regions_and_a_teacher_are_learned_through_the_patches(fuyu_folder, records_folder, tmp_path):
    settings = settings_of(
        fuyu_folder, records_folder, tmp_path / "run", max_steps=20, batch_size=6, learning_rate=1e-2, retention_kl=0.1
    )
    settings.objective.regions = RegionsSettings(weight=1.0, projection=16)
    teacher = TeacherSettings(kind="backbone", path=made_teacher(tmp_path / "teacher", dinov2))
    settings.objective.distil = DistilSettings(weight=1.0, low_teacher=teacher, cache_dir=str(tmp_path / "cache"))
    card = run(settings)
    rows = rows_of(settings)
    assert card["base_hash_unchanged"] and card["dead_parameters"] == []
    for name in ("loss", "regions_l1", "regions_giou", "distil_low"):
        assert sum(row[name] for row in rows[-3:]) < 0.8 * sum(row[name] for row in rows[:3]), name
    assert Path(settings.output_dir, "adapter", FILE).is_file()


def test_a_trained_one_answers_and_its_base_is_there_bit_for_bit(fuyu_folder, records_folder, tmp_path):
    from lynx_moe import Grounder
    from lynx_moe.loading import load

    settings = settings_of(fuyu_folder, records_folder, tmp_path / "run", max_steps=3, batch_size=4)
    run(settings)
    picture = Image.new("RGB", (32, 32), (200, 20, 90))
    assert isinstance(Grounder.from_pretrained(settings.output_dir)(picture, "the red star"), list)
    model = load(settings.output_dir).model
    base = transformers.FuyuForCausalLM.from_pretrained(fuyu_folder).eval()
    samples = list(SampleDataset(load_records(records_folder, "train"), builder()))[:3]
    batch = {k: v for k, v in Collator(builder().processor)(samples).items() if k in INPUTS}
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(model(**batch).logits, base(**batch).logits)


INPUTS = ("input_ids", "attention_mask", "pixel_values")


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [{"data": {"pack_tokens": 128}}, {"prefix_cache": "decoder", "adapter": {"layers": "upper_half"}}],
    ids=["packed", "prefix cache"],
)
def test_goes_with_packing_and_the_prefix_cache(fuyu_folder, records_folder, tmp_path, more):
    settings = settings_of(fuyu_folder, records_folder, tmp_path / "run", max_steps=2, batch_size=4, **more)
    settings.trainer.cache_dir = str(tmp_path / "cache")
    settings.objective.regions = RegionsSettings(weight=1.0, projection=16)
    run(settings)
    assert all(row["regions_l1"] > 0 for row in rows_of(settings))


def test_masks_and_a_teacher_of_their_upsampled_map_are_learned_through_the_patches(fuyu_folder, tmp_path):
    """What the paper is about: no vision tower, a mask head on the decoder's own states, a teacher beside it."""
    folder = str(write_folder(tmp_path / "data", [outlined(0, 8)]))
    settings = settings_of(fuyu_folder, folder, tmp_path / "run", max_steps=25, batch_size=8, learning_rate=1e-2)
    settings.objective.masks = MasksSettings(weight=1.0, word="[dog]", channels=8)
    teacher = HighTeacherSettings(kind="backbone", path=made_teacher(tmp_path / "teacher", dinov2))
    settings.objective.distil = DistilSettings(
        weight=1.0, low=0.0, high=1.0, high_teacher=teacher, cache_dir=str(tmp_path / "cache")
    )
    run(settings)
    rows = rows_of(settings)
    for name, share in {"masks_bce": 0.8, "masks_dice": 0.95, "distil_high": 0.8}.items():
        assert sum(row[name] for row in rows[-3:]) < share * sum(row[name] for row in rows[:3]), name
