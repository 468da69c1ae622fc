"""Invariant 1: adapter off, or gate off, is the base bit for bit; also row by row in a mixed batch."""

import pytest
import torch
from peft import get_peft_model

from lynx_moe.adapter import LynxConfig, set_gate
from tests import tiny
from tests.adapter.speaking import KINDS, adapted

DTYPES = [torch.float32, torch.bfloat16]


def cast(model, inputs, dtype):
    floats = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    return model.to(dtype), floats


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_way_of_switching_off_gives_the_base_logits(vlm, dtype, kind):
    model, inputs = cast(*vlm, dtype)
    before = model(**inputs).logits
    peft_model = adapted(model, **KINDS[kind])
    assert not torch.equal(peft_model(**inputs).logits, before), "the adapter must speak, or nothing is tested"
    with peft_model.disable_adapter():
        assert torch.equal(peft_model(**inputs).logits, before)
    with set_gate(peft_model, False):
        assert torch.equal(peft_model(**inputs).logits, before)
    with set_gate(peft_model, [False, False]):
        assert torch.equal(peft_model(**inputs).logits, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["additive", "with attention"])
@torch.no_grad()
def test_generation_switched_off_gives_the_base_tokens_and_scores(vlm, dtype, kind):
    model, inputs = cast(*vlm, dtype)
    how = {"max_new_tokens": 6, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    before = model.generate(**inputs, **how)
    peft_model = adapted(model, prompt_gate="off", **KINDS[kind])
    off = peft_model.generate(**inputs, **how)
    with set_gate(peft_model, True):
        on = peft_model.generate(**inputs, **how)
    assert torch.equal(off.sequences, before.sequences)
    assert all(torch.equal(a, b) for a, b in zip(off.scores, before.scores, strict=True))
    assert not torch.equal(on.scores[0], before.scores[0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_an_off_row_of_a_mixed_batch_is_the_bases_row(vlm, dtype, kind):
    model, inputs = cast(*vlm, dtype)
    before = model(**inputs).logits
    peft_model = adapted(model, **KINDS[kind])
    spoken = peft_model(**inputs).logits
    for rows in ([True, False], [False, True]):
        with set_gate(peft_model, rows):
            mixed = peft_model(**inputs).logits
        for row, is_on in enumerate(rows):
            assert torch.equal(mixed[row], (spoken if is_on else before)[row])


@pytest.mark.parametrize("kind", ["additive", "with attention"])
@torch.no_grad()
def test_an_off_row_of_a_mixed_generation_writes_the_bases_text(vlm, kind):
    model, inputs = vlm
    how = {"max_new_tokens": 6, "do_sample": False}
    before = model.generate(**inputs, **how)
    peft_model = adapted(model, **KINDS[kind])
    spoken = peft_model.generate(**inputs, **how)
    with set_gate(peft_model, [True, False]):
        mixed = peft_model.generate(**inputs, **how)
    assert torch.equal(mixed[1], before[1]) and torch.equal(mixed[0], spoken[0])
    assert not torch.equal(spoken, before)


@pytest.mark.parametrize(
    "settings",
    [{}, {"mix": "token"}, {"expert_init": "slice"}, {"expert_init": "copy"}, {"attention_rank": 3}],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.no_grad()
def test_a_fresh_adapter_changes_nothing(vlm, settings, dtype):
    model, inputs = cast(*vlm, dtype)
    before = model(**inputs).logits
    peft_model = get_peft_model(model, LynxConfig(prompt_gate="on", **settings))
    assert torch.equal(peft_model(**inputs).logits, before)


@torch.no_grad()
def test_convex_with_copied_experts_starts_at_the_base_up_to_rounding(vlm):
    model, inputs = vlm
    before = model(**inputs).logits
    config = LynxConfig(prompt_gate="on", mix="convex", expert_init="copy", alpha_init=0.5)
    torch.testing.assert_close(get_peft_model(model, config)(**inputs).logits, before, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_frozen_moe_block_is_kept_whole_and_switches_off_exactly():
    model, inputs = tiny.tiny_llava_moe()
    before = model(**inputs).logits
    peft_model = adapted(model)
    assert not torch.equal(peft_model(**inputs).logits, before)
    with set_gate(peft_model, False):
        assert torch.equal(peft_model(**inputs).logits, before)
    with peft_model.disable_adapter():
        assert torch.equal(peft_model(**inputs).logits, before)


@torch.no_grad()
def test_copied_experts_of_a_frozen_moe_block_are_its_experts():
    from lynx_moe.adapter import lynx_layers

    model, _ = tiny.tiny_llava_moe()
    peft_model = get_peft_model(model, LynxConfig(num_experts=6, expert_init="copy", mix="convex"))
    layer = next(iter(lynx_layers(peft_model).values()))
    frozen, new = layer.base_layer.experts, layer.lynx_branch["default"]
    for e in range(6):
        assert torch.equal(new.gate_up_EFD[e], frozen.gate_up_proj[e % 4])
        assert torch.equal(new.down_EDF[e], frozen.down_proj[e % 4])
