"""torch.compile: a compiled adapted model gives the eager logits, whatever the prompt gate does."""

import contextlib
import functools

import pytest
import torch
from torch import _dynamo as dynamo

from lynx_moe.adapter import fit_prompt_gate, set_gate
from lynx_moe.ops.experts import expert_ffn
from tests.adapter.speaking import adapted

# Tracing a whole VLM takes a minute, and inductor's C++ longer: the whole model is traced, the experts are compiled.
pytestmark = pytest.mark.slow


def experts():
    draw = torch.Generator().manual_seed(0)
    x_TD, gate_up_EFD, down_EDF = (torch.randn(*s, generator=draw) for s in ((6, 16), (3, 16, 16), (3, 16, 8)))
    experts_TK, weights_TK = torch.tensor([[0, 1], [1, 2], [0, 2]] * 2), torch.full((6, 2), 0.5)
    return x_TD, weights_TK, experts_TK, gate_up_EFD, down_EDF


@pytest.fixture
def fitted(llava):
    model, inputs = llava
    peft_model = adapted(model, prompt_gate="auto", attention_rank=2)
    # The two rows of the batch, told apart: one prompt's words are grounding, the other's are not.
    words = [[t for t in row if t > 9] for row in inputs["input_ids"].tolist()]
    fit_prompt_gate(peft_model, words * 4, [True, False] * 4)
    dynamo.reset()
    yield peft_model, inputs
    dynamo.reset()


@torch.no_grad()
def test_compiled_logits_are_the_eager_ones_under_every_gate(fitted):
    peft_model, inputs = fitted
    compiled = torch.compile(peft_model, backend="eager")
    seen = []
    for gate in (None, True, False, [False, True], None):
        with contextlib.nullcontext() if gate is None else set_gate(peft_model, gate):
            eager = peft_model(**inputs).logits
            torch.testing.assert_close(compiled(**inputs).logits, eager, rtol=1e-4, atol=1e-4)
        seen.append(eager)
    assert torch.equal(seen[0], seen[4])
    forced = seen[1:4]
    assert not any(torch.equal(a, b) for i, a in enumerate(forced) for b in forced[:i]), "each gate gives other logits"


def test_a_compiled_model_trains_the_same_gradients(llava):
    model, inputs = llava
    peft_model = adapted(model, gate_sparsity=5.0).train()

    def gradients(call):
        peft_model.zero_grad()
        call(**inputs, labels=inputs["input_ids"]).loss.backward()
        return {n: p.grad.clone() for n, p in peft_model.named_parameters() if p.requires_grad}

    eager = gradients(peft_model)
    dynamo.reset()
    for name, gradient in gradients(torch.compile(peft_model, backend="eager")).items():
        torch.testing.assert_close(gradient, eager[name], rtol=1e-3, atol=1e-4, msg=name)


def test_the_grouped_experts_are_one_graph():
    """The path of a GPU: nothing in it waits for the device or depends on how many tokens an expert got."""
    dynamo.reset()
    call = functools.partial(expert_ffn, path="grouped")
    given = [tensor.bfloat16() if tensor.is_floating_point() else tensor for tensor in experts()]
    torch.testing.assert_close(torch.compile(call, backend="eager", fullgraph=True)(*given), call(*given))


def test_inductor_compiles_the_experts():
    dynamo.reset()
    torch.testing.assert_close(torch.compile(expert_ffn)(*experts()), expert_ffn(*experts()), rtol=1e-5, atol=1e-5)
