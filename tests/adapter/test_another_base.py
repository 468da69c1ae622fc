"""An adapter put on a base that it was not made for is refused by name, whichever way it is loaded."""

import json

import pytest
from peft import PeftModel, get_peft_model

from lynx_moe.adapter import LynxConfig
from lynx_moe.adapter.loading import load_adapter
from lynx_moe.errors import CheckpointError
from tests import tiny
from tests.adapter.speaking import adapted

OTHERS = {
    "another family": (tiny.tiny_qwen2_5_vl, "model_type"),
    "another decoder": (tiny.tiny_llava_moe, "text_model_type"),
    "wider": (lambda: tiny.tiny_llava(hidden_size=64), "width"),
    "deeper": (lambda: tiny.tiny_llava(num_hidden_layers=6), "num_layers"),
    "wider FFN": (lambda: tiny.tiny_llava(intermediate_size=96), "ffn_widths"),
}


@pytest.fixture
def folder(llava, tmp_path):
    adapted(llava[0]).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("load", [PeftModel.from_pretrained, load_adapter], ids=["peft", "lynx_moe"])
def test_a_base_of_another_family_or_shape_is_refused_and_both_are_named(folder, other, load):
    build, differs = OTHERS[other]
    base = build()[0]
    before = set(base.state_dict())
    with pytest.raises(CheckpointError, match="made for a llava with a llama decoder of 4 layers 32 wide") as caught:
        load(base, folder)
    assert differs in caught.value.why and f"this base is a {base.config.model_type}" in str(caught.value)
    assert set(base.state_dict()) == before, "nothing was wrapped"


def test_a_second_adapter_for_another_base_is_refused_and_the_first_stays(folder):
    peft_model = get_peft_model(tiny.tiny_llava(num_hidden_layers=6)[0], LynxConfig())
    with pytest.raises(CheckpointError, match="num_layers"):
        peft_model.load_adapter(folder, adapter_name="second")


def test_more_tokens_and_other_number_types_keep_a_base_the_base(folder):
    base, _ = tiny.tiny_llava()
    base.resize_token_embeddings(160)
    load_adapter(base.bfloat16(), folder)


def test_an_adapter_that_says_nothing_of_its_base_still_loads(folder):
    file = folder / "adapter_config.json"
    written = json.loads(file.read_text())
    assert written.pop("base")["num_layers"] == 4
    file.write_text(json.dumps(written))
    load_adapter(tiny.tiny_llava()[0], folder)
