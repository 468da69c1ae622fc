"""Bases in 8 and 4 bits: the same promises, and bitsandbytes' traps (measured with 0.50.2, on a CPU)."""

import copy
import logging
import warnings

import bitsandbytes as bnb
import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils.integrations import dequantize_module_weight
from torch.nn import functional as F

from lynx_moe.adapter import LynxConfig, lynx_layers, set_gate
from lynx_moe.adapter.quantised import keep_trainable, outside_decoder_layers, quantisation_of
from lynx_moe.errors import CheckpointError
from tests import tiny
from tests.adapter.speaking import adapted
from tests.conftest import FAMILIES
from tests.quantised import KINDS, in_dtype, quantised

TWO = {"llava": tiny.tiny_llava, "qwen2_5_vl": tiny.tiny_qwen2_5_vl}
# Cosine of the new experts' gradients, at least. 4-bit products dequantise and multiply in float32; 8-bit ones round
# their inputs as well. Through repacked layers, at the same size: 0.94, with all of attention's part missing.
LEAST_COSINE = {"nf4": 0.9999, "int8": 0.995}


def linears(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit | bnb.nn.Linear8bitLt)}


def bytes_of(model):
    return {n: t.clone() for n, t in model.state_dict().items() if isinstance(t, torch.Tensor) and "lynx_" not in n}


def same_bytes(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def wide_llava():
    """Wide enough that bitsandbytes repacks: rows a multiple of its blocks of 64."""
    return tiny.tiny_llava(hidden_size=64, intermediate_size=128)


def gradient(model, inputs) -> torch.Tensor:
    logits = model(**inputs).logits.float()
    F.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["input_ids"][:, 1:].flatten()).backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, missing
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", [*TWO, "wide llava"])
def test_gradients_after_generating_are_those_beside_the_dequantised_base_in_float32(family, kind):
    build = {**TWO, "wide llava": wide_llava}[family]
    model, inputs = build()
    small, plain = quantised(model, kind), build()[0]
    with torch.no_grad():
        for name, linear in linears(small).items():
            plain.get_submodule(name).weight.copy_(dequantize_module_weight(linear))
    # One expert: with several, rounding flips the choice of a token between two of them.
    settings = {"layers": "all", "num_experts": 1, "top_k": 1, "gate_sparsity": 0.0, "balance": 0.0}
    small, plain = adapted(small, **settings), adapted(plain, **settings)
    # eval mode all along: this is where a 4-bit layer repacks itself and stops being differentiable.
    small.generate(**inputs, max_new_tokens=2, do_sample=False)
    with torch.no_grad(), small.disable_adapter():
        small(**inputs)
    assert F.cosine_similarity(gradient(small, inputs), gradient(plain, inputs), dim=0) > LEAST_COSINE[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_a_shut_gate_is_the_quantised_base_bit_for_bit(vlm, kind, dtype):
    model, inputs = vlm
    inputs = in_dtype(inputs, dtype)
    base = quantised(model, kind, dtype)
    keep_trainable(base)  # the kernel for inference alone rounds otherwise
    before, spoken = base(**inputs).logits, base.generate(**inputs, max_new_tokens=4, do_sample=False)
    peft_model = adapted(base, prompt_gate="on")
    assert not torch.equal(peft_model(**inputs).logits, before)
    for off in (set_gate(peft_model, False), peft_model.disable_adapter()):
        with off:
            assert torch.equal(peft_model(**inputs).logits, before)
            assert torch.equal(peft_model.generate(**inputs, max_new_tokens=4, do_sample=False), spoken)


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_generating_leave_every_byte_of_the_base(vlm, kind):
    model, inputs = vlm
    base = quantised(model, kind)
    before = bytes_of(base)
    peft_model = get_peft_model(base, LynxConfig(prompt_gate="on", expert_init="slice", mix="convex")).train()
    optimiser = torch.optim.AdamW([p for p in peft_model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        # Autocast hands layers inputs of another number type than their biases: InternVL's decoder has some.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            gradient(peft_model, inputs)
        optimiser.step()
    peft_model.eval().generate(**inputs, max_new_tokens=2, do_sample=False)
    after = {n.replace(".base_layer", ""): t for n, t in bytes_of(peft_model.get_base_model()).items()}
    assert same_bytes(before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bias_keeps_its_bytes_where_bitsandbytes_would_round_it_for_good(kind):
    model, inputs = tiny.tiny_internvl()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("q_proj.bias"):
                parameter.add_(1 / 3)  # no number that bfloat16 has
    base = quantised(model, kind)
    biases = {n: m.bias for n, m in linears(base).items() if m.bias is not None}
    before = {n: b.detach().clone() for n, b in biases.items()}
    x = torch.randn(1, 3, 32, dtype=torch.bfloat16)
    keep_trainable(base)
    for name in biases:
        base.get_submodule(name)(x)
    assert before and all(torch.equal(b, before[n]) and b.dtype == torch.float32 for n, b in biases.items())


@pytest.mark.skipif(not bnb.functional.has_avx512bf16(), reason="the CPU has no AVX512-BF16, so nothing is repacked")
def test_weights_that_were_repacked_before_are_refused_however_the_adapter_comes(tmp_path):
    model, inputs = wide_llava()
    adapted(copy.deepcopy(model)).save_pretrained(tmp_path)
    base = quantised(model, "nf4")
    with torch.no_grad():
        before = base(**inputs).logits
    for attach in (lambda: get_peft_model(base, LynxConfig()), lambda: PeftModel.from_pretrained(base, tmp_path)):
        with pytest.raises(CheckpointError, match="repacked for inference, the first is model.language_model.layers.0"):
            attach()
    with torch.no_grad():
        assert torch.equal(base(**inputs).logits, before), "refused before anything was touched"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", ["slice", "copy"])
def test_experts_start_from_the_dequantised_matrices(kind, start):
    base = quantised(wide_llava()[0], kind)
    before = bytes_of(base)
    config = LynxConfig(mix="convex", expert_init=start, num_experts=2, layers="all")
    peft_model = get_peft_model(base, config)
    assert same_bytes(
        before, {n.replace(".base_layer", ""): t for n, t in bytes_of(peft_model.base_model.model).items()}
    )
    for layer in lynx_layers(peft_model).values():
        frozen, branch = layer.base_layer, layer.lynx_branch["default"]
        gate_FD, up_FD, down_DF = (dequantised(getattr(frozen, n)) for n in ("gate_proj", "up_proj", "down_proj"))
        width = branch.down_EDF.shape[-1]
        assert width == (64 if start == "slice" else 128)
        for e in range(2):
            at = slice(e * width, (e + 1) * width) if start == "slice" else slice(None)
            exactly = {"rtol": 1e-6, "atol": 1e-7}
            torch.testing.assert_close(branch.gate_up_EFD[e], torch.cat([gate_FD[at], up_FD[at]]), **exactly)
            torch.testing.assert_close(branch.down_EDF[e], down_DF[:, at] * (128 / width), **exactly)


def dequantised(linear):
    """By hand: the code book's entry times its block's scale; or the integer times its row's scale."""
    if isinstance(linear, bnb.nn.Linear8bitLt):
        scale = linear.state.SCB if linear.weight.SCB is None else linear.weight.SCB
        return linear.weight.data.float() * (scale / 127.0)[:, None]
    state = linear.weight.quant_state
    packed = linear.weight.data.flatten().int()
    codes = torch.stack([packed >> 4, packed & 15], dim=1).flatten()
    return (state.code[codes].view(-1, state.blocksize) * state.absmax[:, None]).view(state.shape)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("autocast", [True, False])
def test_experts_beside_a_bfloat16_base_compute_in_bfloat16(kind, autocast):
    model, inputs = tiny.tiny_llava()
    base = quantised(model, kind, torch.bfloat16)
    peft_model = get_peft_model(base, LynxConfig(prompt_gate="on"), autocast_adapter_dtype=autocast)
    stored = {p.dtype for layer in lynx_layers(peft_model).values() for p in layer.lynx_branch.parameters()}
    assert stored == {torch.float32 if autocast else torch.bfloat16}
    seen = set()
    for layer in lynx_layers(peft_model).values():
        layer.lynx_branch["default"].activation.register_forward_pre_hook(lambda module, x: seen.add(x[0].dtype))
    logits = peft_model(**in_dtype(inputs, torch.bfloat16)).logits
    assert seen == {torch.bfloat16} and logits.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_fused_experts_that_stayed_wide_are_named_once_with_their_share(kind):
    base = quantised(tiny.tiny_llava_moe()[0], kind)
    with pytest.warns(UserWarning, match="bitsandbytes cannot quantise fused experts") as caught:
        peft_model = get_peft_model(base, LynxConfig())
    said = [str(w.message) for w in caught if "fused experts" in str(w.message)]
    fused = ("experts.gate_up_proj", "experts.down_proj")
    left = sum(p.numel() * p.element_size() for n, p in base.named_parameters() if n.endswith(fused))
    total = sum(p.numel() * p.element_size() for n, p in base.named_parameters() if "lynx_" not in n)
    assert len(said) == 1
    assert "model.language_model.layers.0.mlp.experts.gate_up_proj" in said[0] and "and 5 more stay" in said[0]
    assert f"{100 * left / total:.0f} %" in said[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        peft_model.add_adapter("second", LynxConfig())


def test_rows_that_are_no_whole_number_of_blocks_are_read_wrongly_on_a_cpu_and_said_so():
    torch.manual_seed(0)
    error = {}
    for width in (64, 96):
        weight = torch.randn(64, width)
        linear = bnb.nn.Linear4bit(width, 64, bias=False, quant_type="nf4", compress_statistics=False)
        linear.weight = bnb.nn.Params4bit(weight, False, quant_type="nf4", compress_statistics=False, module=linear)
        linear = linear.to("cpu")
        error[width] = ((dequantize_module_weight(linear) - weight).norm() / weight.norm()).item()
    assert error[64] < 0.1 and error[96] > 0.2, "bitsandbytes reads them rightly now: drop the warning"
    with pytest.warns(UserWarning, match="24 4-bit matrices.* rows of 32 numbers, no multiple of 64"):
        get_peft_model(quantised(tiny.tiny_llava()[0], "nf4"), LynxConfig())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        get_peft_model(quantised(tiny.tiny_llava()[0], "int8"), LynxConfig())


SILENT = {
    "dense": lambda: quantised(wide_llava()[0], "nf4"),
    "unquantised experts": lambda: tiny.tiny_llava_moe()[0],
    "3-D parameters of the vision tower": lambda: quantised(tiny.tiny_internvl()[0], "int8"),
}


@pytest.mark.parametrize("base", SILENT)
def test_nothing_is_said_where_everything_is_as_asked(base):
    base = SILENT[base]()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        get_peft_model(base, LynxConfig())


def test_the_cast_of_8_bit_products_is_logged_once_not_per_product(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("bitsandbytes.autograd._functions"), "filters", [])
    model, inputs = tiny.tiny_llava()
    peft_model = get_peft_model(quantised(model, "int8", torch.bfloat16), LynxConfig())
    with torch.no_grad():
        for _ in range(2):
            peft_model(**in_dtype(inputs, torch.bfloat16))
    assert sum("inputs will be cast" in r.getMessage() for r in caplog.records) == 1


def test_the_adapters_share_counts_numbers_not_packed_bytes(capsys):
    model, _ = tiny.tiny_llava()
    plain, small = copy.deepcopy(model), quantised(model, "nf4")
    capsys.readouterr()
    get_peft_model(plain, LynxConfig())
    get_peft_model(small, LynxConfig())
    one, other = capsys.readouterr().err.strip().splitlines()[-2:]
    assert "new parameters" in one and one == other


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_decoders_layers_are_quantised(family):
    model, _ = FAMILIES[family]()
    skipped = outside_decoder_layers(model)
    assert "lm_head" in skipped and any("vis" in name for name in skipped)
    small = quantised(model, "nf4")
    assert quantisation_of(small) == "nf4" and quantisation_of(model) is None
    held = linears(small)
    assert held and all(".layers." in n and "vis" not in n for n in held)
    assert len(held) == 4 * 7
