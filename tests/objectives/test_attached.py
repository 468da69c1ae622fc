"""Files of heads that a model cannot be given."""

import json

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import save_file

from lynx_moe import LynxConfig
from lynx_moe.errors import CheckpointError
from lynx_moe.objectives.attached import FILE, SETTINGS, attach_serving, heads_of
from tests.tiny import tiny_llava_with_processor

PLAIN = {"blocks": 1, "word": "[dog]", "channels": 4}


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"masks": PLAIN | {"sharpness": 2}}, "cannot be made"),
        ({"masks": PLAIN | {"channels": "wide"}}, "cannot be made"),
        ({"masks": PLAIN}, "another model"),
        ({"masks": 4}, "holds no heads"),
        (["masks"], "holds no heads"),
    ],
)
def test_settings_that_make_no_head_are_a_checkpoint_error(tmp_path, told, says):
    model = get_peft_model(tiny_llava_with_processor()[0], LynxConfig(prompt_gate="on", expert_width=8))
    save_file({"a": torch.zeros(1)}, tmp_path / FILE, metadata={SETTINGS: json.dumps(told)})
    with pytest.raises(CheckpointError, match=says):
        attach_serving(model, tmp_path)


def test_heads_that_nobody_needs_to_answer_or_knows_are_left_out(tmp_path):
    model = get_peft_model(tiny_llava_with_processor()[0], LynxConfig(prompt_gate="on", expert_width=8))
    told = {"of a later version": {"depth": 3}, "reconstruction": {"weight": 1.0}}
    save_file({"a": torch.zeros(1)}, tmp_path / FILE, metadata={SETTINGS: json.dumps(told)})
    attach_serving(model, tmp_path)
    assert heads_of(model) == {}
