"""The expert FFN against a dense reference that runs every expert on every token."""

import pytest
import torch
from torch.nn import functional as F

from lynx_moe.ops.experts import expert_ffn

T, D, E, K, WIDE = 11, 8, 5, 2, 16


def draw(seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    x_TD = torch.randn(T, D, generator=g)
    experts_TK = torch.stack([torch.randperm(E - 1, generator=g)[:K] for _ in range(T)])  # nobody goes to the last
    weights_TK = torch.rand(T, K, generator=g)
    gate_up_EFD = torch.randn(E, 2 * WIDE, D, generator=g) / D**0.5
    down_EDF = torch.randn(E, D, WIDE, generator=g) / WIDE**0.5
    return x_TD.to(dtype), weights_TK, experts_TK, gate_up_EFD.to(dtype), down_EDF.to(dtype)


def dense_reference(x_TD, weights_TK, experts_TK, gate_up_EFD, down_EDF, activation=F.silu):
    out_TD = torch.zeros(T, D, dtype=torch.float64)
    for t in range(T):
        for k in range(K):
            e = experts_TK[t, k]
            both = gate_up_EFD[e].double() @ x_TD[t].double()
            hidden = activation(both[:WIDE]) * both[WIDE:]
            out_TD[t] += weights_TK[t, k].double() * (down_EDF[e].double() @ hidden)
    return out_TD


@pytest.mark.parametrize("backend", ["eager", "grouped", "auto"])
@pytest.mark.parametrize("activation", [F.silu, F.gelu])
def test_equals_the_dense_sum_over_chosen_experts(backend, activation):
    inputs = draw()
    got = expert_ffn(*inputs, activation=activation, backend=backend)
    torch.testing.assert_close(got.double(), dense_reference(*inputs, activation=activation), rtol=1e-4, atol=1e-5)


def test_grouped_and_eager_give_the_same_gradients():
    grads = []
    for backend in ("eager", "grouped"):
        x, w, e, up, down = draw()
        leaves = [t.clone().requires_grad_() for t in (x, w, up, down)]
        expert_ffn(leaves[0], leaves[1], e, leaves[2], leaves[3], backend=backend).square().sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_gradients_match_finite_differences():
    x, w, e, up, down = (t.double() if t.is_floating_point() else t for t in draw())
    torch.autograd.gradcheck(
        lambda x, w, up, down: expert_ffn(x, w, e, up, down, backend="eager"),
        [t.clone().requires_grad_() for t in (x, w, up, down)],
    )


def test_an_expert_without_tokens_gets_a_zero_gradient_not_none():
    x, w, e, up, down = draw()
    up.requires_grad_(), down.requires_grad_()
    expert_ffn(x, w, e, up, down, backend="eager").sum().backward()
    assert up.grad[-1].abs().sum() == 0 and down.grad[-1].abs().sum() == 0
    assert all(up.grad[i].abs().sum() > 0 for i in set(e.flatten().tolist()))


def test_token_order_does_not_change_a_tokens_output():
    x, w, e, up, down = draw()
    order = torch.randperm(T, generator=torch.Generator().manual_seed(3))
    straight = expert_ffn(x, w, e, up, down)
    torch.testing.assert_close(expert_ffn(x[order], w[order], e[order], up, down), straight[order])


def test_float32_masters_under_bfloat16_activations_give_bfloat16():
    x, w, e, up, down = draw()
    got = expert_ffn(x.bfloat16(), w, e, up, down)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), dense_reference(x, w, e, up, down), rtol=0.05, atol=0.05)


def test_no_tokens_give_no_rows():
    x, w, e, up, down = draw()
    assert expert_ffn(x[:0], w[:0], e[:0], up, down).shape == (0, D)
