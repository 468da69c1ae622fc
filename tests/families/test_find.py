"""Finding the text decoder's feed-forward positions by structure."""

import pytest
import torch
import transformers
from torch import nn

from lynx_moe.errors import ConfigError, FamilyError
from lynx_moe.families.find import describe_ffn, find_ffn_blocks, select_layers
from tests import tiny

DECODERS = {
    tiny.tiny_llava: "model.language_model.layers.{}.mlp",
    tiny.tiny_qwen2_5_vl: "model.language_model.layers.{}.mlp",
    tiny.tiny_smolvlm: "model.text_model.layers.{}.mlp",
    tiny.tiny_internvl: "model.language_model.layers.{}.mlp",
    tiny.tiny_llava_moe: "model.language_model.layers.{}.mlp",
}


@pytest.mark.parametrize("build", DECODERS, ids=lambda f: f.__name__)
def test_every_decoder_layer_is_found_and_nothing_of_the_vision_tower(build):
    blocks = find_ffn_blocks(build()[0])
    assert blocks == [(DECODERS[build].format(i), i) for i in range(4)]


def test_a_moe_block_is_found_as_a_whole():
    model, _ = tiny.tiny_llava_moe()
    shape = describe_ffn(model.get_submodule(find_ffn_blocks(model)[0].name))
    assert shape.is_moe and (shape.width, shape.ffn_width) == (32, 16)


@pytest.mark.parametrize(
    "config",
    [
        transformers.Qwen2VLConfig,
        transformers.Qwen3VLConfig,
        transformers.Qwen3VLMoeConfig,
        transformers.Idefics3Config,
        transformers.LlavaOnevisionConfig,
        transformers.Mistral3Config,
        transformers.PaliGemmaConfig,
        transformers.Gemma3Config,
        transformers.MllamaConfig,
        transformers.Llama4Config,
        transformers.IdeficsConfig,
        transformers.MuseSparkConfig,
    ],
    ids=lambda c: c.__name__,
)
def test_full_size_families_are_found_without_allocating_them(config):
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config())
    text = model.config.get_text_config()
    blocks = find_ffn_blocks(model)
    assert [b.layer for b in blocks] == list(range(text.num_hidden_layers))
    assert not any("vision" in b.name or "visual" in b.name for b in blocks)
    assert describe_ffn(model.get_submodule(blocks[-1].name)).width == text.hidden_size


def test_a_model_without_a_text_decoder_is_refused():
    vision = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(**tiny.VISION, image_size=32, patch_size=8, projection_dim=32)
    )
    with pytest.raises(FamilyError, match="no token embedding"):
        find_ffn_blocks(vision)
    with pytest.raises(FamilyError, match="why:"):
        find_ffn_blocks(nn.Sequential(nn.Linear(4, 4)))


def test_a_decoder_without_ffn_modules_is_refused_and_the_vision_tower_is_not_taken_instead():
    # BLIP's text part spreads its FFN over the layer; its vision tower has perfectly good ones of the same width.
    with torch.device("meta"):
        model = transformers.BlipForConditionalGeneration(transformers.BlipConfig())
    with pytest.raises(FamilyError):
        find_ffn_blocks(model)


def test_attention_is_not_a_feed_forward_block():
    model, _ = tiny.tiny_llava()
    with pytest.raises(FamilyError, match="not a feed-forward block"):
        describe_ffn(nn.LayerNorm(8))
    names = [b.name for b in find_ffn_blocks(model)]
    assert not any("attn" in n for n in names)


def test_layer_choices():
    assert select_layers(4, "every_other") == {0, 2}
    assert select_layers(5, "all") == {0, 1, 2, 3, 4}
    assert select_layers(4, "upper_half") == {2, 3}
    assert select_layers(4, [1, -1]) == {1, 3}


@pytest.mark.parametrize("choice", [[4], [0, 9], [-5]])
def test_a_layer_the_model_does_not_have_is_refused(choice):
    with pytest.raises(ConfigError, match="the decoder has 4 layers"):
        select_layers(4, choice)


def test_an_unknown_layer_word_offers_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'every_other'"):
        select_layers(4, "every_othr")
