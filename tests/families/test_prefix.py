"""Which families can be run from a decoder layer on: those where nothing above reads the picture in another way."""

import pytest
import torch

from lynx_moe.adapter import LynxConfig
from lynx_moe.adapter.attaching import attach_adapter
from lynx_moe.errors import FamilyError
from lynx_moe.families.prefix import Boundary, States
from lynx_moe.training.prefix_data import geometry
from tests.zoo import ZOO

# Why not, in front of the lowest trained layer and in front of the first; None where it works.
REFUSED = {
    "mllama": (None, "attend to the picture"),
    "qwen3_vl_moe": (None, "deepstack"),
    "blip-2, opt": ("each time",) * 2,
    "blip-2, t5": ("not called once each",) * 2,
    "florence2": ("not called once each",) * 2,
    "blip, bert": ("does not run without its pictures",) * 2,
    "kosmos-2": ("each time",) * 2,
    "git, bert": ("not called once each",) * 2,
}

# Whose lowest trained layer does not add its attention to the stream before its FFN reads it, or has two FFNs.
IN_FRONT_OF_THE_LAYER = {"gpt_neox, parallel residual", "cohere, parallel", "granitemoeshared"}

EVERY_TIME = {*REFUSED, "llava", "qwen2_5_vl", "smolvlm", "internvl, qwen2", "gemma3", "cohere, parallel"} - {
    "blip-2, t5",
    "git, bert",
}


def without_pictures(inputs: dict) -> dict:
    tokens = inputs["input_ids"].shape
    return {
        name: value
        for name, value in inputs.items()
        if name in geometry(inputs) or (value.shape[:2] == tokens and not value.is_floating_point())
    }


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in EVERY_TIME else pytest.mark.slow) for name in ZOO]
)
def test_upper_layers_give_the_same_logits_from_stored_states_or_the_family_is_refused(name):
    model, inputs = ZOO[name]()
    adapted = attach_adapter(model, LynxConfig(layers="upper_half", prompt_gate="on")).train()
    there_BL = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    before = {key: value.forward for key, value in model.named_modules()}
    for at_embedding, reason in zip((False, True), REFUSED.get(name, (None, None)), strict=True):
        boundary = Boundary(model, adapted, at_embedding=at_embedding)
        if reason:
            with pytest.raises(FamilyError, match=reason) as caught:
                boundary.check(inputs, without_pictures(inputs), there_BL)
            assert "prefix_cache=off" in caught.value.fix
        else:
            states_BLD = boundary.check(inputs, without_pictures(inputs), there_BL)
            assert bool(boundary.at_ffn) is (not at_embedding and name not in IN_FRONT_OF_THE_LAYER)
            assert torch.equal(boundary.capture(inputs), states_BLD)
            # What is replayed is what counts: other states give other logits.
            with torch.no_grad():
                boundary.source = States(states_BLD, there_BL)
                same = adapted(**without_pictures(inputs)).logits
                boundary.source = States(states_BLD.flip(0), there_BL)
                assert not torch.allclose(adapted(**without_pictures(inputs)).logits, same, atol=1e-3)
                boundary.source = None
                assert torch.equal(adapted(**inputs).logits, same)
        boundary.remove()
        assert {key: value.forward for key, value in model.named_modules()} == before


def test_model_that_is_trained_below_its_decoder_layers_is_refused():
    model, _ = ZOO["llava"]()
    with pytest.raises(FamilyError, match="no decoder layer"):
        Boundary(model)
    model.model.vision_tower.requires_grad_(True)
    with pytest.raises(FamilyError, match="vision_tower"):
        Boundary(model)
