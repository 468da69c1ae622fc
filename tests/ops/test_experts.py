"""The expert FFN against a dense reference that runs every expert on every token."""

import pytest
import torch
from torch.nn import functional as F

from lynx_moe.errors import ConfigError
from lynx_moe.ops import experts
from lynx_moe.ops.experts import choose_path, expert_ffn
from lynx_moe.ops.rows import padded_size

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
    """In float64: every expert on every token, then the weight of each, 0 for those not chosen."""
    both_TEF = torch.einsum("td,efd->tef", x_TD.double(), gate_up_EFD.double())
    y_TED = torch.einsum("tef,edf->ted", activation(both_TEF[..., :WIDE]) * both_TEF[..., WIDE:], down_EDF.double())
    weights_TE = torch.zeros(T, E, dtype=torch.float64).scatter(1, experts_TK, weights_TK.double())
    return torch.einsum("te,ted->td", weights_TE, y_TED)


def every_expert(dtype=torch.float32):
    """As `draw`, but each token goes to all experts, in an order of its own."""
    x_TD, _, _, gate_up_EFD, down_EDF = draw(dtype=dtype)
    g = torch.Generator().manual_seed(5)
    experts_TE = torch.stack([torch.randperm(E, generator=g) for _ in range(T)])
    return x_TD, torch.rand(T, E, generator=g), experts_TE, gate_up_EFD, down_EDF


def gradients(inputs, grad_TD, compute):
    """Of x, the weights and both kinds of the experts' matrices."""
    x, w, experts, up, down = inputs
    leaves = [t.detach().clone().requires_grad_() for t in (x, w, up, down)]
    compute(leaves[0], leaves[1], experts, *leaves[2:]).backward(grad_TD)
    return [leaf.grad for leaf in leaves]


def in_float64(inputs):
    return tuple(t.double() if t.is_floating_point() else t for t in inputs)


CASES = [(path, draw) for path in ("loop", "padded", "grouped", "auto")] + [
    (path, every_expert) for path in ("shared", "loop", "padded", "grouped", "auto")
]
PATHS_AND_DRAWS = pytest.mark.parametrize(("path", "drawn"), CASES, ids=lambda v: getattr(v, "__name__", v))


@PATHS_AND_DRAWS
@pytest.mark.parametrize("activation", [F.silu, F.gelu])
def test_equals_the_dense_sum_over_chosen_experts(path, drawn, activation):
    inputs = drawn()
    got = expert_ffn(*inputs, activation=activation, path=path)
    torch.testing.assert_close(got.double(), dense_reference(*inputs, activation=activation), rtol=1e-4, atol=1e-5)


@PATHS_AND_DRAWS
@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str)
def test_gradients_equal_the_dense_sums(path, drawn, dtype, off):
    inputs, grad_TD = drawn(dtype=dtype), torch.randn(T, D, generator=torch.Generator().manual_seed(7)).to(dtype)
    found = gradients(inputs, grad_TD, lambda *given: expert_ffn(*given, path=path))
    expected = gradients(in_float64(inputs), grad_TD.double(), dense_reference)
    for name, a, b in zip(("x", "weights", "gate_up", "down"), found, expected, strict=True):
        assert (a.double() - b).norm() <= off * b.norm(), name


@PATHS_AND_DRAWS
def test_plain_experts_have_no_gate(path, drawn):
    x, w, e, gate_up, down = drawn()
    up_EFD = gate_up[:, :WIDE]
    hidden_TEF = F.gelu(torch.einsum("td,efd->tef", x.double(), up_EFD.double()))
    y_TED = torch.einsum("tef,edf->ted", hidden_TEF, down.double())
    expected = (y_TED.gather(1, e[:, :, None].expand(-1, -1, D)) * w.double()[:, :, None]).sum(1)
    found = expert_ffn(x, w, e, up_EFD, down, activation=F.gelu, path=path)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", ["loop", "padded"])
def test_float32_masters_get_float32_gradients_under_bfloat16(path):
    x, w, e, up, down = draw()
    grad_TD = torch.randn(T, D)
    found = gradients(
        (x, w, e, up, down), grad_TD.bfloat16(), lambda x, *rest: expert_ffn(x.bfloat16(), *rest, path=path)
    )
    expected = gradients(in_float64((x, w, e, up, down)), grad_TD.double(), dense_reference)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert (a.double() - b).norm() <= 2e-2 * b.norm()


@pytest.mark.parametrize("path", ["loop", "padded"])
def test_frozen_input_and_frozen_experts_get_no_gradient_and_disturb_no_other(path):
    x, w, e, up, down = draw()
    grad_TD = torch.ones(T, D)
    all_of_them = gradients((x, w, e, up, down), grad_TD, lambda *given: expert_ffn(*given, path=path))
    w, down = w.requires_grad_(), down.requires_grad_()
    expert_ffn(x, w, e, up, down, path=path).backward(grad_TD)
    assert x.grad is None and up.grad is None
    assert torch.equal(w.grad, all_of_them[1]) and torch.equal(down.grad, all_of_them[3])


def test_unknown_path_is_refused():
    with pytest.raises(ConfigError, match="fastest"):
        expert_ffn(*draw(), path="fastest")


@pytest.mark.parametrize(
    ("dtype", "tokens", "top_k", "path"),
    [
        (torch.float32, 1, 2, "grouped"),
        (torch.float32, 4096, 2, "grouped"),
        (torch.float64, 4096, 2, "loop"),
        (torch.bfloat16, 64, 2, "grouped"),
        (torch.bfloat16, 1024, 2, "padded"),
        (torch.float16, 1024, 2, "padded"),
        (torch.float32, 1024, 4, "shared"),
    ],
    ids=str,
)
def test_choice_on_a_cpu(dtype, tokens, top_k, path, monkeypatch):
    monkeypatch.setattr(experts, "GROUPED_ON_CPU", True)
    shape = {"rows": tokens * top_k, "num_experts": 4, "top_k": top_k}
    assert choose_path(torch.device("cpu"), dtype, **shape, widths=(64, 16)) == path


@pytest.mark.parametrize(
    ("capability", "dtype", "widths", "path"),
    [
        ((9, 0), torch.bfloat16, (64, 16), "grouped"),
        ((7, 5), torch.bfloat16, (64, 16), "loop"),
        ((9, 0), torch.float32, (64, 16), "loop"),
        ((9, 0), torch.bfloat16, (64, 12), "loop"),
    ],
)
def test_choice_on_cuda_is_grouped_matmul_where_its_kernel_runs(capability, dtype, widths, path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_path(torch.device("cuda"), dtype, rows=64, num_experts=4, top_k=2, widths=widths) == path


def test_old_torch_loops_on_a_cpu(monkeypatch):
    monkeypatch.setattr(experts, "GROUPED_ON_CPU", False)
    found = choose_path(torch.device("cpu"), torch.float32, rows=8, num_experts=4, top_k=2, widths=(64, 16))
    assert found == "loop"


def test_padded_sizes_are_few_and_waste_little():
    sizes = {padded_size(n) for n in range(1, 4097)}
    assert len(sizes) < 100
    assert all(n <= padded_size(n) <= max(16, n + 15, n * 17 / 16) for n in range(1, 4097))


@pytest.mark.parametrize(("path", "drawn"), [("loop", draw), ("padded", draw), ("shared", every_expert)])
def test_gradients_match_finite_differences(path, drawn):
    x, w, e, up, down = in_float64(drawn())
    torch.autograd.gradcheck(
        lambda x, w, up, down: expert_ffn(x, w, e, up, down, path=path),
        [t.clone().requires_grad_() for t in (x, w, up, down)],
    )


@pytest.mark.parametrize("path", ["loop", "padded", "grouped", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_expert_without_tokens_gets_a_zero_gradient_not_none(path, dtype):
    x, w, e, up, down = draw(dtype=dtype)
    up.requires_grad_(), down.requires_grad_()
    expert_ffn(x, w, e, up, down, path=path).sum().backward()
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


@PATHS_AND_DRAWS
def test_no_tokens_give_no_rows(path, drawn):
    x, w, e, up, down = drawn()
    assert expert_ffn(x[:0], w[:0], e[:0], up, down, path=path).shape == (0, D)


@pytest.mark.parametrize("path", ["loop", "padded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_two_calls_give_the_same_bits(path, dtype):
    inputs, grad_TD = draw(dtype=dtype), torch.ones(T, D, dtype=dtype)
    twice = [gradients(inputs, grad_TD, lambda *given: expert_ffn(*given, path=path)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*twice, strict=True))
