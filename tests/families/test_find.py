"""Finding the text decoder's feed-forward positions by structure."""

import pytest
import torch
import transformers
from torch import nn

from lynx_moe.errors import ConfigError, FamilyError
from lynx_moe.families.ffn import describe_ffn
from lynx_moe.families.find import find_ffn_blocks, select_layers
from tests import tiny
from tests.zoo import ZOO

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
    assert [(b.name, b.layer, b.reads) for b in blocks] == [(DECODERS[build].format(i), i, None) for i in range(4)]


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
    with pytest.raises(FamilyError, match="no token embedding") as caught:
        find_ffn_blocks(vision)
    assert "encoder (CLIPEncoder)" in caught.value.why and "layers.0.mlp" in caught.value.fix
    with pytest.raises(FamilyError, match="why:"):
        find_ffn_blocks(nn.Sequential(nn.Linear(4, 4)))


SPREAD = {
    "blip-2, opt": ("language_model.model.decoder.layers.{}.fc2", "language_model.model.decoder.layers.{}.fc1"),
    "florence2": ("model.language_model.decoder.layers.{}.fc2", "model.language_model.decoder.layers.{}.fc1"),
    "blip, bert": (
        "text_decoder.bert.encoder.layer.{}.output.dense",
        "text_decoder.bert.encoder.layer.{}.intermediate.dense",
    ),
}


@pytest.mark.parametrize("family", SPREAD)
def test_an_ffn_spread_over_its_layer_is_wrapped_at_its_last_map_and_read_at_its_first(family):
    model, _ = ZOO[family]()
    name, reads = SPREAD[family]
    blocks = find_ffn_blocks(model)
    assert [(b.name, b.reads) for b in blocks] == [(name.format(i), reads.format(i)) for i in range(4)]
    shape = describe_ffn(blocks[0].frozen(model))
    assert (shape.width, shape.ffn_width, shape.is_moe) == (32, 64, False) and shape.activation is not None


def test_the_decoders_ffn_is_meant_and_without_norm_and_residual():
    model, _ = ZOO["blip-2, t5"]()
    assert [b.name for b in find_ffn_blocks(model)] == [
        f"language_model.decoder.block.{i}.layer.2.DenseReluDense" for i in range(4)
    ]


def test_a_decoder_without_ffn_is_refused_and_the_vision_tower_is_not_taken_instead():
    model, _ = tiny.tiny_llava()
    for layer in model.model.language_model.layers:
        layer.mlp = nn.Identity()
    with pytest.raises(FamilyError, match="no feed-forward block found in LlavaForConditionalGeneration") as caught:
        find_ffn_blocks(model)
    assert (
        "looked at model.language_model.layers: model.language_model.layers.0 (LlamaDecoderLayer)" in caught.value.why
    )
    assert "self_attn (LlamaAttention), mlp (Identity)" in caught.value.why
    assert "nearest by name: model.vision_tower.encoder.layers.0.mlp" in caught.value.fix


def test_attention_is_not_a_feed_forward_block():
    model, _ = tiny.tiny_llava()
    with pytest.raises(FamilyError, match="not a feed-forward block"):
        describe_ffn(nn.LayerNorm(8))
    names = [b.name for b in find_ffn_blocks(model)]
    assert not any("attn" in n for n in names)


def test_layer_choices():
    assert select_layers(range(4), 4, "every_other") == {0, 2}
    assert select_layers(range(5), 5, "all") == {0, 1, 2, 3, 4}
    assert select_layers(range(4), 4, "upper_half") == {2, 3}
    assert select_layers(range(4), 4, [1, -1]) == {1, 3}


def test_layer_choices_of_a_hybrid_decoder_are_among_the_layers_that_have_a_block():
    assert select_layers([1, 3, 5], 8, "every_other") == {1, 5}
    assert select_layers([1, 3, 5], 8, "upper_half") == {5}
    with pytest.raises(ConfigError, match=r"names layers \[0\]"):
        select_layers([1, 3, 5], 8, [0, 1])


def test_the_encoders_own_words_do_not_make_it_the_decoder():
    config = transformers.T5Gemma2Config()
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(config)
    assert all(".decoder." in block.name for block in find_ffn_blocks(model))


@pytest.mark.parametrize("choice", [[4], [0, 9], [-5]])
def test_a_layer_the_model_does_not_have_is_refused(choice):
    with pytest.raises(ConfigError, match="the decoder has 4 layers"):
        select_layers(range(4), 4, choice)


def test_an_unknown_layer_word_offers_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'every_other'"):
        select_layers(range(4), 4, "every_othr")
