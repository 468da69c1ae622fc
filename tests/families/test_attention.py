"""The attention projections beside the wrapped blocks: these and no others, in decoders of every build."""

import pytest
import torch
import transformers
from peft import get_peft_model
from torch import nn

from lynx_moe.adapter import LynxConfig, lynx_projections
from lynx_moe.errors import FamilyError
from lynx_moe.families.attention import attention_projections
from lynx_moe.families.find import find_ffn_blocks
from tests import tiny
from tests.zoo import ZOO


def test_queries_keys_values_and_output_from_the_lowest_chosen_layer_up(llava):
    model = llava[0]
    blocks = [block for block in find_ffn_blocks(model) if block.layer in (1, 3)]
    assert attention_projections(model, blocks) == [
        f"model.language_model.layers.{layer}.self_attn.{name}_proj" for layer in (1, 2, 3) for name in "qkvo"
    ]


def test_attention_of_a_hybrid_decoder_is_found_where_it_is():
    model, _ = ZOO["jamba, mamba and MoE"]()
    blocks = [block for block in find_ffn_blocks(model) if block.layer in (0, 2)]
    names = attention_projections(model, blocks)
    assert {name.split(".layers.")[1][0] for name in names} == {"1", "3"}


def test_attention_to_an_encoder_counts_too():
    model, _ = ZOO["blip-2, t5"]()
    names = attention_projections(model, find_ffn_blocks(model)[3:])
    assert {name.split(".block.3.")[1] for name in names} == {
        f"layer.{part}.{kind}.{leaf}"
        for part, kind in ((0, "SelfAttention"), (1, "EncDecAttention"))
        for leaf in "qkvo"
    }


def test_a_fused_projection_counts_as_it_is():
    config = tiny.llava_config()
    config.text_config = transformers.Phi3Config(**tiny.TEXT)
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(config)
    names = {name.rsplit(".", 1)[1] for name in attention_projections(model, find_ffn_blocks(model))}
    assert names == {"qkv_proj", "o_proj"}


def test_already_wrapped_projections_are_named_once(llava):
    model = llava[0]
    before = attention_projections(model, find_ffn_blocks(model))
    peft_model = get_peft_model(model, LynxConfig(attention_rank=2, layers="all"))
    inner = peft_model.get_base_model()
    assert attention_projections(inner, find_ffn_blocks(inner)) == before
    assert list(lynx_projections(peft_model)) == before


def test_excluded_projections_stay_as_they_are(llava):
    peft_model = get_peft_model(llava[0], LynxConfig(attention_rank=2, exclude_modules=["o_proj", "v_proj"]))
    assert {name.rsplit(".", 1)[1] for name in lynx_projections(peft_model)} == {"q_proj", "k_proj"}


def test_a_rank_that_would_do_nothing_is_refused(llava):
    with pytest.raises(FamilyError, match="finds no attention projection"):
        get_peft_model(llava[0], LynxConfig(attention_rank=2, exclude_modules=r".*self_attn.*"))


def test_a_fresh_delta_is_zero_and_lives_where_its_matrix_does(llava):
    peft_model = get_peft_model(llava[0].bfloat16(), LynxConfig(attention_rank=5, layers=[2]))
    for name, layer in lynx_projections(peft_model).items():
        delta, frozen = layer.lynx_delta["default"], layer.base_layer
        assert isinstance(frozen, nn.Linear) and (".layers.2." in name or ".layers.3." in name)
        assert delta.down_RD.shape == (5, frozen.in_features) and delta.up_OR.shape == (frozen.out_features, 5)
        assert not delta.up_OR.any() and delta.up_OR.dtype == torch.float32, "masters, as PEFT keeps every adapter"
