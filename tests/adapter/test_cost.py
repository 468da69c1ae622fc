"""What an adapter costs besides its own weights: nothing that grows with the base."""

import time

import pytest
import torch
import transformers
from peft import get_peft_model

from lynx_moe.adapter import LynxConfig
from tests import tiny


@pytest.mark.parametrize("settings", [{}, {"layers": "all", "attention_rank": 16}], ids=str)
def test_attaching_to_70_billion_parameters_takes_seconds(settings):
    text = transformers.LlamaConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8
    )
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(text_config=text))
    assert sum(p.numel() for p in model.parameters()) > 69e9
    start = time.process_time()  # of this process alone: other work on the machine does not count
    get_peft_model(model, LynxConfig(**settings))
    assert time.process_time() - start < 5.0


def test_no_base_tensor_is_copied(vlm):
    model, _ = vlm
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    peft_model = get_peft_model(model, LynxConfig(attention_rank=2))
    after = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): tensor.data_ptr()
        for name, tensor in peft_model.state_dict().items()
        if ".lynx_" not in name
    }
    assert after == before


def test_backward_stops_below_the_lowest_wrapped_layer(llava):
    model, inputs = llava
    peft_model = get_peft_model(model, LynxConfig(layers=[2], prompt_gate="on", attention_rank=2)).train()
    needs = {}
    layers = peft_model.get_base_model().model.language_model.layers
    for index, layer in enumerate(layers):
        layer.register_forward_pre_hook(lambda module, args, index=index: needs.update({index: args[0].requires_grad}))
    peft_model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert needs == {0: False, 1: False, 2: False, 3: True}
    assert tiny.TEXT["num_hidden_layers"] == len(needs)
