"""CLIP as the judge: its own cosine, and whether its encoder is the model's."""

import pytest
import torch
import transformers

from lynx_moe.errors import CheckpointError
from lynx_moe.evaluation.scoring import make_scorer
from lynx_moe.evaluation.scoring.same_encoder import compare_towers
from tests.adapter.speaking import adapted
from tests.evaluation.scoring.asking import TEXTS, ask, picture
from tests.evaluation.scoring.tiny_clip import save_clip, tiny_clip
from tests.tiny import IMAGE, TEXT, _build, tiny_llava_with_processor, tiny_qwen2_5_vl


def vlm_with_tower_of(clip):
    """A LLaVA whose vision tower holds the weights of `clip`, and its processor."""
    vlm, processor = tiny_llava_with_processor()
    vlm.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    return vlm, processor


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_it_is_the_cosine_that_the_clip_itself_gives(kind, tmp_path):
    folder = save_clip(tmp_path, kind)
    clip, processor = tiny_clip(kind)
    texts = processor.tokenizer(
        list(TEXTS),
        padding="max_length",
        max_length=clip.config.text_config.max_position_embeddings,
        return_tensors="pt",
    )
    images = processor.image_processor(images=[picture(0), picture(1)], return_tensors="pt")
    out = clip(**texts, **images)
    expected = (out.image_embeds @ out.text_embeds.T).flatten().tolist()
    scorer = make_scorer("clip", *tiny_llava_with_processor(), clip=folder, same_encoder=False)
    assert scorer([ask(seed, text) for seed in (0, 1) for text in TEXTS]) == pytest.approx(expected, abs=1e-5)
    assert "NOT the model's own" in scorer.notes["encoder"]


def test_the_models_own_clip_is_told_by_its_weights_plain_and_under_an_adapter(tmp_path):
    folder = save_clip(tmp_path)
    vlm, processor = vlm_with_tower_of(tiny_clip()[0])
    plain = make_scorer("clip", vlm, processor, clip=folder).notes["encoder"]
    assert plain.startswith("the model's own") and "model.vision_tower" in plain
    under = make_scorer("clip", adapted(vlm), processor, clip=folder)
    assert under.comparison.same and under.comparison.sha256 in plain


def test_a_tower_with_one_other_number_is_refused_by_name_unless_that_is_wanted(tmp_path):
    folder = save_clip(tmp_path)
    vlm, processor = vlm_with_tower_of(tiny_clip()[0])
    with torch.no_grad():
        vlm.model.vision_tower.encoder.layers[1].mlp.fc1.weight[3, 4] += 1e-6
    with pytest.raises(CheckpointError, match="another vision encoder") as caught:
        make_scorer("clip", vlm, processor, clip=folder)
    assert "encoder.layers.1.mlp.fc1.weight" in caught.value.why
    notes = make_scorer("clip", vlm, processor, clip=folder, same_encoder=False).notes
    assert "encoder.layers.1.mlp.fc1.weight" in notes["encoder"]


def test_a_tower_that_was_cut_is_not_the_same_encoder():
    clip = tiny_clip()[0]
    vlm, _ = vlm_with_tower_of(clip)
    del vlm.model.vision_tower.encoder.layers[1]
    found = compare_towers(vlm, clip.vision_model)
    assert not found.same and "encoder.layers.1." in found.difference


def test_a_tower_stored_in_half_precision_is_its_clip_rounded(tmp_path):
    clip = tiny_clip()[0]
    vlm, processor = vlm_with_tower_of(clip)
    assert compare_towers(vlm.to(torch.bfloat16), clip.vision_model).same
    assert not compare_towers(vlm_with_tower_of(clip)[0], clip.to(torch.bfloat16).vision_model).same
    assert make_scorer("clip", vlm, processor, clip=save_clip(tmp_path)).comparison.same


def test_a_siglip_tower_without_its_pooling_head_is_the_same_encoder():
    siglip = tiny_clip("siglip")[0]
    vision = transformers.SiglipVisionConfig(**{**siglip.config.vision_config.to_dict(), "vision_use_head": False})
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=transformers.LlamaConfig(**TEXT), image_token_index=IMAGE, image_seq_length=16
    )
    vlm = _build(transformers.LlavaForConditionalGeneration, config)
    missing = vlm.model.vision_tower.load_state_dict(siglip.vision_model.state_dict(), strict=False)
    assert not missing.missing_keys and any(name.startswith("head.") for name in missing.unexpected_keys)
    assert compare_towers(vlm, siglip.vision_model).same


def test_a_model_without_such_a_tower_and_a_folder_without_such_a_clip_are_refused(tmp_path):
    clip = tiny_clip()[0]
    found = compare_towers(tiny_qwen2_5_vl()[0], clip.vision_model)
    assert not found.same and "no tower" in found.difference
    vlm, processor = tiny_llava_with_processor()
    with pytest.raises(CheckpointError, match="no CLIP can be loaded"):
        make_scorer("clip", vlm, processor, clip=tmp_path / "nothing")
    vlm.save_pretrained(tmp_path / "vlm")
    processor.save_pretrained(tmp_path / "vlm")
    with pytest.raises(CheckpointError, match="no text side|no CLIP"):
        make_scorer("clip", vlm, processor, clip=tmp_path / "vlm")


def test_a_text_longer_than_the_text_tower_takes_is_cut_and_counted(tmp_path):
    scorer = make_scorer("clip", *tiny_llava_with_processor(), clip=save_clip(tmp_path), same_encoder=False)
    long, longer = "dog " * 60, "dog " * 70
    one, other, short = scorer([ask(0, long), ask(0, longer), ask(0, "red")])
    assert one == pytest.approx(other, abs=1e-6) and short != pytest.approx(one, abs=1e-4)
    assert scorer.faults == {"text cut to what the text tower takes": 2}
