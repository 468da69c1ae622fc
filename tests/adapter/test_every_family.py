"""The invariants of the block on every family of the zoo, times every kind of adapter, times the gate's ways.

Families that differ only in sizes teach nothing more; these differ in structure.
"""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model

from lynx_moe.adapter import LynxConfig, dead_parameters, fit_prompt_gate, set_gate
from lynx_moe.families.attention import attention_projections
from lynx_moe.families.ffn import describe_ffn
from lynx_moe.families.find import find_ffn_blocks
from tests.adapter.speaking import KINDS, adapted
from tests.zoo import ZOO

DTYPES = [torch.float32, torch.bfloat16]
# Every family meets every kind of adapter in every number type, by turns. The default run takes one turn of each
# family, another kind for each neighbour; -m slow takes the others.
WAYS = [(kind, dtype) for dtype in DTYPES for kind in KINDS]
TURNS = [pytest.param(turn, marks=pytest.mark.slow if turn else ()) for turn in range(len(WAYS))]
# Reentrant checkpointing needs inputs that require gradients. These models write into their embeddings in place, or
# embed the decoder's words by a module that enable_input_require_grads does not know: the base's own limits.
MODES = dict.fromkeys(("kosmos-2", "blip-2, t5", "florence2", "blip, bert"), (None, False)) | {"git, bert": (None,)}


@pytest.fixture(scope="module", params=ZOO)
def family(request):
    """(model, inputs), built once for all tests of a family; each test takes a copy."""
    model, inputs = ZOO[request.param]()
    model.first_turn = list(ZOO).index(request.param)
    model.checkpointing_modes = MODES.get(request.param, (None, False, True))
    return model, inputs


def fresh(family, dtype=torch.float32):
    model, inputs = copy.deepcopy(family)
    return model.to(dtype), {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}


@pytest.mark.parametrize("turn", TURNS)
@torch.no_grad()
def test_what_is_off_is_the_base_bit_for_bit(family, turn):
    kind, dtype = WAYS[(family[0].first_turn + turn) % len(WAYS)]
    model, inputs = fresh(family, dtype)
    before = model(**inputs).logits
    peft_model = adapted(model, **KINDS[kind])
    spoken = peft_model(**inputs).logits
    assert spoken.isfinite().all() and not torch.equal(spoken, before)
    with peft_model.disable_adapter():
        assert torch.equal(peft_model(**inputs).logits, before)
    with set_gate(peft_model, False):
        assert torch.equal(peft_model(**inputs).logits, before)
    for rows in ([True, False], [False, True]):
        with set_gate(peft_model, rows):
            mixed = peft_model(**inputs).logits
        off, on = rows.index(False), rows.index(True)
        assert torch.equal(mixed[off], before[off])
        # Up to rounding: experts that get other numbers of tokens are other matmuls.
        close = (
            {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1 * spoken.abs().max()}
        )
        torch.testing.assert_close(mixed[on], spoken[on], **close)
    back = peft_model.unload()
    assert torch.equal(back(**inputs).logits, before)


@pytest.mark.parametrize("turn", TURNS[: len(KINDS)])
def test_every_new_tensor_learns_also_under_checkpointing_and_the_base_stays(family, turn):
    kind = list(KINDS)[(family[0].first_turn + turn) % len(KINDS)]
    model, inputs = fresh(family)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    labels = inputs.get("decoder_input_ids", inputs["input_ids"])
    gradients = []
    for use_reentrant in model.checkpointing_modes:
        peft_model = adapted(copy.deepcopy(model), gate_sparsity=3.0, balance=2.0, **KINDS[kind]).train()
        if use_reentrant is not None:
            how = {"use_reentrant": use_reentrant}
            peft_model.get_base_model().activation_checkpointing_enable(activation_checkpointing_kwargs=how)
        if use_reentrant:
            peft_model.enable_input_require_grads()
        torch.manual_seed(0)  # some have dropout
        logits = peft_model(**inputs).logits[:, : labels.shape[1]]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten()).backward()
        assert dead_parameters(peft_model) == []
        gradients.append({n: p.grad for n, p in peft_model.named_parameters() if p.requires_grad})
        torch.optim.AdamW([p for p in peft_model.parameters() if p.requires_grad], lr=0.1).step()
        now = {
            n.replace("base_model.model.", "").replace(".base_layer", ""): t for n, t in peft_model.state_dict().items()
        }
        assert all(torch.equal(now[name], tensor) for name, tensor in base.items())
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@torch.no_grad()
def test_a_saved_adapter_finds_its_places_again(family, tmp_path):
    model, inputs = fresh(family)
    base = copy.deepcopy(model)
    peft_model = adapted(model, attention_rank=2, layers=[1])
    peft_model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path, adapter_name="elsewhere").eval()
    assert torch.equal(loaded(**inputs).logits, peft_model(**inputs).logits)
    peft_model.add_adapter("second", LynxConfig(prompt_gate="on", layers="all"))
    peft_model.delete_adapter("default")
    assert not any("default" in name for name in peft_model.state_dict())


@torch.no_grad()
def test_a_token_does_not_depend_on_its_batch(family):
    model, inputs = fresh(family)
    peft_model = adapted(model)
    both = peft_model(**inputs).logits
    per_row = {k: v.shape[0] // 2 for k, v in inputs.items()}
    alone = peft_model(**{k: v[per_row[k] :] for k, v in inputs.items()}).logits
    torch.testing.assert_close(both[1:], alone, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_generation_behind_a_shut_gate_is_the_bases(family):
    model, inputs = fresh(family)
    for name in ("decoder_input_ids", "image_patches", "image_patches_indices"):  # generate() of fuyu refuses its own
        inputs.pop(name, None)
    how = {"max_new_tokens": 4, "do_sample": False}
    before = model.generate(**inputs, **how)
    peft_model = adapted(model)
    with set_gate(peft_model, False):
        assert torch.equal(peft_model.generate(**inputs, **how), before)


@pytest.mark.parametrize("num_beams", [1, pytest.param(2, marks=pytest.mark.slow)])
@torch.no_grad()
def test_a_fitted_gate_and_adapter_names_decide_each_row_of_a_generation(family, num_beams):
    model, inputs = fresh(family)
    for name in ("decoder_input_ids", "image_patches", "image_patches_indices"):
        inputs.pop(name, None)
    how = {"max_new_tokens": 4, "do_sample": False, "num_beams": num_beams}
    base = model.generate(**inputs, **how)
    peft_model = adapted(model, prompt_gate="auto", attention_rank=2)
    fit_prompt_gate(peft_model, inputs["input_ids"].tolist() * 4, [True, False] * 4)
    decided = peft_model.generate(**inputs, **how)
    with set_gate(peft_model, True):
        spoken = peft_model.generate(**inputs, **how)
        named = peft_model.generate(**inputs, **how, adapter_names=["default", "__base__"])
    assert torch.equal(decided[1], base[1]), "row 1 asks for no grounding"
    assert torch.equal(decided[0], spoken[0])
    assert torch.equal(named[1], base[1]) and torch.equal(named[0], spoken[0])
    assert not torch.equal(spoken, base)


def test_an_adapted_model_is_read_as_its_base_is(family):
    model, _ = fresh(family)
    blocks = find_ffn_blocks(model)
    projections, shapes = attention_projections(model, blocks), [describe_ffn(b.frozen(model)) for b in blocks]
    inner = get_peft_model(model, LynxConfig(layers="all", attention_rank=2)).get_base_model()
    assert find_ffn_blocks(inner) == blocks
    assert attention_projections(inner, blocks) == projections
    now = [describe_ffn(b.frozen(inner)) for b in blocks]
    assert [(s.width, s.ffn_width, s.is_moe) for s in now] == [(s.width, s.ffn_width, s.is_moe) for s in shapes]


def test_fresh_adapter_changes_nothing(family):
    model, inputs = fresh(family)
    with torch.no_grad():
        before = model(**inputs).logits
        peft_model = get_peft_model(model, LynxConfig(prompt_gate="on", attention_rank=2)).eval()
        assert torch.equal(peft_model(**inputs).logits, before)
