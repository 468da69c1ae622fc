"""An exported modelling file in other hands: servers, several devices, compilers, quantisation while it is loaded."""

import sys

import pytest
import torch
import transformers.dynamic_module_utils as modules
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, BitsAndBytesConfig

import lynx_moe.export.run as run
from lynx_moe.adapter.quantised import outside_decoder_layers
from lynx_moe.export import code
from lynx_moe.export.read import read
from tests.adapter.speaking import adapted
from tests.export.exporting import OPEN_ROW, SHUT_ROW, compare_in_this_process, export_of, logits, with_fitted_gate
from tests.export.fusing import fuses_whole, own_kernel, router_scores
from tests.tiny import tiny_llava, tiny_llava_moe
from tests.zoo import ZOO

# bitsandbytes' kernel for CPUs takes 4-bit weights in rows of 64.
WIDE = {"hidden_size": 64, "intermediate_size": 128}
BLOCK = "model.language_model.layers.0.mlp"


def load(folder, **settings):
    return AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, **settings).eval()


def block_of(build, tmp_path, **settings):
    """A block of the model that the modelling file defines, and what was promised of it."""
    live = read(adapted(build()[0], **settings))
    built = code.build(live, tmp_path)
    with torch.device("meta"):
        model = built.model_class(built.config)
    return model.get_submodule(next(iter(live.blocks))), code.promise(live), built.config


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(folder, live logits, inputs) of an always open adapter, and of one whose gate reads prompts."""
    with pytest.MonkeyPatch.context() as patch:
        top = tmp_path_factory.mktemp("served")
        patch.setattr(modules, "HF_MODULES_CACHE", str(top / "modules"))
        patch.setattr(run, "check_in_fresh_process", compare_in_this_process)
        found = {}
        for name, kind in (("on", {}), ("auto", {"mix": "token", "attention_rank": 2})):
            vlm, inputs = tiny_llava(**WIDE)
            model = adapted(vlm, **kind) if name == "on" else with_fitted_gate(vlm, inputs, **kind)
            export_of(model, inputs, top / name, route="code")
            found[name] = (top / name, logits(model, inputs), inputs)
        yield found


def test_an_additive_block_is_what_vllm_runs_whole(tmp_path):
    block, promised, config = block_of(tiny_llava, tmp_path, top_k=2)
    assert fuses_whole(block) and router_scores(block.lynx_router) == "sigmoid"
    text, (experts, twice, width) = config.get_text_config(), block.experts.gate_up_proj.shape
    assert (text.num_experts, text.num_experts_per_tok, text.moe_intermediate_size) == (experts, 2, twice // 2)
    assert text.hidden_size == width == block.experts.down_proj.shape[1]
    assert promised.served_by["vllm"].startswith("yes") and len(promised.costs) == 1
    assert list(config.auto_map) == ["AutoConfig", "AutoModel", "AutoModelForImageTextToText"]


@pytest.mark.parametrize("mix", ["convex", "token"])
def test_a_block_with_a_gate_has_its_experts_run_by_vllm_and_says_that_the_rest_is_not(mix, tmp_path):
    block, promised, _ = block_of(tiny_llava, tmp_path, mix=mix)
    assert own_kernel(block) and not fuses_whole(block) and router_scores(block.lynx_router) == "softmax"
    assert f"mix={mix!r}" in promised.costs[1]


REFUSED = {
    "another activation": (ZOO["paligemma"], "not SiLU"),
    "a frozen mixture": (tiny_llava_moe, "no dense FFN"),
    "spread over its layer": (ZOO["starcoder2, two matrices"], "not SiLU"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_experts_that_vllm_would_compute_wrongly_are_not_offered_to_it(case, tmp_path):
    build, reason = REFUSED[case]
    block, promised, config = block_of(build, tmp_path)
    assert not own_kernel(block) and hasattr(block, "lynx_experts")
    assert reason in promised.costs[1]
    assert getattr(config.get_text_config(), "num_experts", 0) in (0, 4)  # 4 is the frozen mixture's own number


def test_a_gate_that_reads_prompts_is_served_for_all_prompts_or_none():
    vlm, inputs = tiny_llava()
    assert "'on' or 'off' for all prompts" in code.promise(read(with_fitted_gate(vlm, inputs))).served_by["vllm"]


def test_the_body_alone_gives_the_whole_models_hidden_states(folders):
    folder, live, inputs = folders["on"]
    body = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        hidden = body(**inputs).last_hidden_state
    assert type(body).__name__ == "LynxLlavaModel"
    assert torch.equal(load(folder).lm_head(hidden), live)
    with pytest.raises(ValueError, match="nobody reads prompts"):
        AutoModel.from_pretrained(folders["auto"][0], trust_remote_code=True)


def test_a_model_that_lies_on_disk_gives_the_live_logits(folders, tmp_path):
    folder, live, inputs = folders["auto"]
    model = load(folder, device_map="auto", max_memory={"cpu": 60_000}, offload_folder=str(tmp_path / "offload"))
    assert "disk" in model.hf_device_map.values()
    assert torch.equal(logits(model, inputs), live)
    how = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **how), load(folder).generate(**inputs, **how))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantisation_on_load_takes_the_base_and_leaves_the_new_weights(kind, folders, tmp_path):
    folder, live, inputs = folders["auto"]
    vlm, _ = tiny_llava(**WIDE)
    vlm.save_pretrained(tmp_path)
    how = {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=kind == "nf4",
            load_in_8bit=kind == "int8",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.float32,
            llm_int8_skip_modules=outside_decoder_layers(vlm),
        ),
        "device_map": "cpu",
        "dtype": torch.float32,
    }
    model = load(folder, **how)
    quantised = {"nf4": "Linear4bit", "int8": "Linear8bitLt"}[kind]
    block = model.get_submodule(BLOCK)
    assert {type(part).__name__ for part in block.shared_expert.children()} >= {quantised}
    assert type(model.get_submodule(f"{BLOCK.removesuffix('mlp')}self_attn.q_proj.base_layer")).__name__ == quantised
    new = {name: p for name, p in model.named_parameters() if "lynx_" in name or ".experts." in name}
    assert len(new) == 2 * 5 + 2 * 16 + 4 and {p.dtype for p in new.values()} == {torch.float32}
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path, **how).eval()
    # Row by row: what 8 bits round depends on the largest activation of the batch.
    for row, is_shut in ((SHUT_ROW, True), (OPEN_ROW, False)):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        assert torch.equal(logits(model, alone), logits(stock, alone)) == is_shut


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_compiled_block_is_one_graph_and_gives_the_eager_output(dtype, folders):
    torch._dynamo.reset()
    block = load(folders["on"][0], dtype=dtype).get_submodule(BLOCK)
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for length in (7, 9):
            x = torch.randn(2, length, 64, generator=draw).to(dtype)
            torch.testing.assert_close(compiled(x), block(x), rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-5)
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["on", "auto"])
def test_a_compiled_model_gives_the_eager_logits(name, folders):
    torch._dynamo.reset()
    folder, live, inputs = folders[name]
    compiled = torch.compile(load(folder), backend="eager")
    torch.testing.assert_close(logits(compiled, inputs), live, rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


def test_config_loads_where_only_the_config_is_asked_for(folders):
    config = AutoConfig.from_pretrained(folders["on"][0], trust_remote_code=True)
    assert config.get_text_config().num_experts == config.lynx["num_experts"] == 4
    assert not {"lynx_moe", "peft"} & {sys.modules[type(config).__module__].__name__.partition(".")[0]}
