"""Invariants 2 to 4: the base stays as it is, every trainable tensor learns, penalties survive checkpointing."""

import copy
import hashlib

import pytest
import torch
from peft import get_peft_model

from lynx_moe.adapter import (
    LynxConfig,
    dead_parameters,
    lynx_layers,
    penalty_values,
    runtime_of,
    set_aux_scale,
    set_gate,
)
from tests import tiny
from tests.adapter.speaking import KINDS, adapted, make_it_speak


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def hashes(model):
    """Name to hash of every base tensor, under the name it has in the bare base."""
    return {
        n.replace("base_model.model.", "").replace(".base_layer", ""): hashlib.sha256(t.numpy().tobytes()).hexdigest()
        for n, t in model.state_dict().items()
        if ".lynx_" not in n
    }


@pytest.mark.parametrize("kind", KINDS)
def test_training_leaves_every_base_tensor_as_it_was_and_lowers_the_loss(vlm, kind):
    model, inputs = vlm
    before = hashes(model)
    peft_model = get_peft_model(model, LynxConfig(**KINDS[kind], prompt_gate="on", layers="all")).train()
    optimiser = torch.optim.AdamW([p for p in peft_model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = peft_model(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        assert dead_parameters(peft_model) == []
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    after = hashes(peft_model)
    assert after == before


def test_only_new_experts_are_trainable_and_the_prompt_gate_is_not(llava):
    peft_model = get_peft_model(llava[0], LynxConfig(attention_rank=2))
    trainable = {n for n, p in peft_model.named_parameters() if p.requires_grad}
    assert {n.split(".lynx_")[1].split(".")[0] for n in trainable} == {"branch", "delta"}


def test_an_expert_without_a_token_gets_a_zero_gradient(vlm):
    model, inputs = vlm
    peft_model = adapted(model, balance=0.0, gate_sparsity=0.0).train()
    for layer in lynx_layers(peft_model).values():
        branch = layer.lynx_branch["default"]
        layer.register_forward_pre_hook(lambda module, args: None)
        with torch.no_grad():  # experts 0 and 1 win for every token: rows 0, 1 get the sign of a constant direction
            branch.router_ED.zero_()
    peft_model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert dead_parameters(peft_model) == []
    chosen = {}
    with torch.no_grad():
        from lynx_moe.adapter import record_routing

        with record_routing(peft_model) as routing:
            peft_model(**inputs)
    for name, layer in lynx_layers(peft_model).items():
        chosen = set(routing[name]["experts_TK"].flatten().tolist())
        idle = set(range(4)) - chosen
        assert idle, "ties go to the same experts, so some must be idle"
        grad = layer.lynx_branch["default"].down_EDF.grad
        assert all(grad[e].abs().sum() == 0 for e in idle) and all(grad[e].abs().sum() > 0 for e in chosen)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_with_every_row_shut_still_gives_gradients_all_zero(vlm, kind):
    model, inputs = vlm
    peft_model = adapted(model, **KINDS[kind]).train()
    peft_model.enable_input_require_grads()
    with set_gate(peft_model, False):
        peft_model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert dead_parameters(peft_model) == []
    assert all(g.abs().sum() == 0 for g in gradients(peft_model).values())


def test_a_cut_graph_is_named(llava):
    model, inputs = llava
    peft_model = adapted(model).train()
    first, *_ = lynx_layers(peft_model).values()
    first.register_forward_hook(lambda module, args, output: output.detach())
    peft_model(**inputs, labels=inputs["input_ids"]).loss.backward()
    dead = dead_parameters(peft_model)
    assert dead and all("layers.0" in n for n in dead)


MODES = {"none": None, "non_reentrant": False, "reentrant": True}


def backward_with(model, inputs, use_reentrant, **settings):
    peft_model = adapted(copy.deepcopy(model), **settings).train()
    if use_reentrant is not None:
        peft_model.base_model.model.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": use_reentrant}
        )
    peft_model.enable_input_require_grads()
    with set_gate(peft_model, [True, False]):
        loss = peft_model(**inputs, labels=inputs["input_ids"], use_cache=False).loss
    loss.backward()  # outside set_gate, where recomputation must still know the rows
    assert dead_parameters(peft_model) == []
    return gradients(peft_model)


@pytest.mark.parametrize("mode", ["non_reentrant", "reentrant"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_same_under_every_checkpointing(vlm, mode, kind):
    model, inputs = vlm
    settings = {**KINDS[kind], "gate_sparsity": 3.0, "balance": 2.0, "router_z": 1.0}
    plain = backward_with(model, inputs, None, **settings)
    checkpointed = backward_with(model, inputs, MODES[mode], **settings)
    assert plain.keys() == checkpointed.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], checkpointed[name], msg=name, rtol=1e-5, atol=1e-7)
    silent = backward_with(
        model, inputs, MODES[mode], **{**settings, "gate_sparsity": 0.0, "balance": 0.0, "router_z": 0.0}
    )
    assert any(not torch.allclose(silent[n], plain[n], rtol=1e-2) for n in plain), "the penalties must be felt"


@pytest.mark.parametrize("settings", [{"mix": "additive"}, {"mix": "convex"}, {"mix": "token"}], ids=str)
def test_attached_penalty_equals_adding_it_to_the_loss(llava, settings):
    """Oracle: the same model without penalties, whose gate values are collected and penalised by hand."""
    model, inputs = llava
    weight = 5.0
    attached = adapted(copy.deepcopy(model), gate_sparsity=weight, balance=0.0, **settings).train()
    attached(**inputs, labels=inputs["input_ids"]).loss.backward()

    by_hand = adapted(copy.deepcopy(model), gate_sparsity=0.0, balance=0.0, **settings).train()
    gates = {}
    runtime_of(by_hand).recorder = lambda name, out, *_: gates.update({name: out.open_TG})
    loss = by_hand(**inputs, labels=inputs["input_ids"]).loss
    there = inputs["attention_mask"].flatten().bool()
    for open_TG in gates.values():
        counted = open_TG[there] if len(open_TG) > 1 else open_TG
        loss = loss + weight * counted.sum(-1).mean()
    loss.backward()
    for name, gradient in gradients(by_hand).items():
        torch.testing.assert_close(gradients(attached)[name], gradient, msg=name, rtol=1e-4, atol=1e-6)


def test_aux_scale_makes_accumulated_micro_batches_equal_the_mean_of_their_losses(llava):
    model, inputs = llava
    halves = [{k: v[i : i + 1] for k, v in inputs.items()} for i in range(2)]

    accumulated = adapted(copy.deepcopy(model), gate_sparsity=5.0).train()
    set_aux_scale(accumulated, 1 / 2)
    for half in halves:
        (accumulated(**half, labels=half["input_ids"]).loss / 2).backward()

    separate = adapted(copy.deepcopy(model), gate_sparsity=5.0).train()
    mean = {}
    for half in halves:
        separate.zero_grad()
        separate(**half, labels=half["input_ids"]).loss.backward()
        for name, gradient in gradients(separate).items():
            mean[name] = mean.get(name, 0) + gradient / 2
    for name, gradient in gradients(accumulated).items():
        torch.testing.assert_close(gradient, mean[name], msg=name)


def test_a_loss_scale_scales_the_penalties_too_when_told(llava):
    model, inputs = llava
    plain = adapted(copy.deepcopy(model), gate_sparsity=5.0).train()
    plain(**inputs, labels=inputs["input_ids"]).loss.backward()
    scaled = adapted(copy.deepcopy(model), gate_sparsity=5.0).train()
    loss = scaled(**inputs, labels=inputs["input_ids"]).loss * 1024
    set_aux_scale(scaled, 1024)  # after the forward, as a gradient scaler may move
    loss.backward()
    for name, gradient in gradients(scaled).items():
        torch.testing.assert_close(gradient / 1024, gradients(plain)[name], msg=name, rtol=1e-4, atol=1e-7)


def test_padding_and_shut_rows_do_not_change_the_penalties(llava):
    model, inputs = llava
    peft_model = adapted(model).train()
    one = {k: v[1:] for k, v in inputs.items()}
    with penalty_values(peft_model) as alone:
        peft_model(**one)
    with set_gate(peft_model, [False, True]), penalty_values(peft_model) as beside_a_shut_row:
        peft_model(**inputs)
    longer = {
        "input_ids": torch.cat([torch.full((1, 4), tiny.PAD), one["input_ids"]], 1),
        "attention_mask": torch.cat([torch.zeros(1, 4, dtype=torch.long), one["attention_mask"]], 1),
        "pixel_values": one["pixel_values"],
    }
    with penalty_values(peft_model) as padded:
        peft_model(**longer)
    # Only the first block: later ones see what earlier attention made of other positions.
    name = next(iter(alone))
    for other in (beside_a_shut_row, padded):
        for penalty in ("sparsity", "balance"):
            torch.testing.assert_close(alone[name][penalty], other[name][penalty], rtol=1e-4, atol=1e-5)


def test_evaluation_attaches_no_penalty(llava):
    model, inputs = llava
    peft_model = adapted(model, gate_sparsity=100.0)
    grads = []
    for strength in (100.0, 0.0):
        for layer in lynx_layers(peft_model).values():
            layer.lynx_branch["default"].cost_weights["sparsity"] = strength
        peft_model.zero_grad()
        peft_model(**inputs, labels=inputs["input_ids"]).loss.backward()
        grads.append(gradients(peft_model))
    assert all(torch.equal(grads[0][n], grads[1][n]) for n in grads[0])


def test_autocast_trains_in_bfloat16_with_float32_masters(llava):
    model, inputs = llava
    peft_model = make_it_speak(get_peft_model(model, LynxConfig(prompt_gate="on"))).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = peft_model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    assert dead_parameters(peft_model) == []
    assert all(p.grad.dtype == torch.float32 for p in peft_model.parameters() if p.requires_grad)


def test_a_bfloat16_base_gets_float32_new_experts_and_keeps_its_dtype(llava):
    model, inputs = llava
    peft_model = adapted(model.bfloat16())
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    assert peft_model(**inputs).logits.dtype == torch.bfloat16
    assert {p.dtype for p in peft_model.parameters() if p.requires_grad} == {torch.float32}
