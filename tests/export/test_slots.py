"""Which VLM classes take a foreign text decoder: measured for every family that transformers knows, held to the table.

Three looks, each at what the one before let through: does the config keep another decoder's `text_config`; does the
class build that decoder from it (on the meta device, at its default size); does a small one, saved and loaded again by
`AutoModelForImageTextToText`, come back with every tensor and the same logits.
"""

import contextlib
import logging

import pytest
import torch
from transformers import AutoModelForImageTextToText, Qwen2MoeConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

from lynx_moe.export.native import OPEN_TEXT_SLOTS
from lynx_moe.family_table import families
from tests.export.shells import SHELLS, model_class, shell
from tests.tiny import TEXT, _build, _prompts

HOST = {
    **TEXT,
    "model_type": "qwen2_moe",
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 64,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
# One look at the first two of each kind of answer stays in the default run.
QUICK = ("llava", "ovis2", "qwen2_5_vl", "paligemma")
# Not built by transformers at its default size, but by its own small config.
NO_DEFAULT = ("aya_vision",)


def around_the_host(family):
    """The family's default config with a qwen2_moe decoder; None where the config will not have it."""
    config_class = CONFIG_MAPPING[family]
    fields = config_class().to_dict()
    if "text_config" not in fields:
        return None
    for key in ("model_type", "architectures"):
        fields.pop(key, None)
    try:
        config = config_class.from_dict(fields | {"text_config": dict(HOST)})
    except Exception:  # whatever it says: it will not have it
        return None
    return config if isinstance(config.get_text_config(), Qwen2MoeConfig) else None


def is_built(config):
    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
    except Exception:
        return False
    return sum(isinstance(module, Qwen2MoeSparseMoeBlock) for module in model.modules()) == TEXT["num_hidden_layers"]


def shallow(fields):
    """Every part of a config but the decoder one layer deep, as nested dictionaries."""
    depths = ("num_hidden_layers", "depth", "num_layers", "encoder_layers", "vt_num_hidden_layers")
    lists = {"deepstack_visual_indexes": [0], "fullatt_block_indexes": [0], "global_attn_indexes": [0]}
    made = {}
    for key, value in fields.items():
        if isinstance(value, dict) and key != "text_config":
            value = shallow(value)
        made[key] = 1 if key in depths else lists.get(key, value)
    return made


def comes_back(family, config, folder):
    if family in SHELLS:
        model, inputs = shell(
            family, "qwen2_moe", **{k: v for k, v in HOST.items() if k not in TEXT | {"model_type": 0}}
        )
    else:
        small = type(config).from_dict(shallow(config.to_dict()))
        model, inputs = _build(model_class(type(config)), small), _prompts([])
    with torch.no_grad():
        before = model(**inputs).logits
    model.save_pretrained(folder)
    again, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    with torch.no_grad():
        after = again.eval()(**inputs).logits
    state = again.state_dict()
    same = all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    # Not bit for bit: tensors that lie elsewhere in memory may be summed in another order.
    return (
        same and not info["missing_keys"] and not info["unexpected_keys"] and torch.allclose(before, after, atol=1e-5)
    )


@contextlib.contextmanager
def quietly():
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def is_open(family, folder):
    with quietly():
        try:
            config = around_the_host(family)
        except Exception:  # transformers has no default for it
            return False
        if config is None or not (family in NO_DEFAULT or is_built(config)):
            return False
        try:
            return comes_back(family, config, folder)
        except Exception:  # a forward that needs what the host has not, positions on three axes for one
            return False


@pytest.mark.parametrize("family", QUICK)
def test_table_says_what_is_measured(family, tmp_path):
    assert is_open(family, tmp_path) == (family in OPEN_TEXT_SLOTS)


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in families() if family not in QUICK])
def test_table_says_what_is_measured_for_every_other_family(family, tmp_path):
    assert is_open(family, tmp_path) == (family in OPEN_TEXT_SLOTS)


def test_every_open_slot_has_a_tiny_model():
    assert {name.split(",")[0] for name in SHELLS} >= set(OPEN_TEXT_SLOTS) - set(LARGE)


# Open, and tried by their own config made shallow: no tiny model of ours.
LARGE = (
    "cosmos3_omni",
    "exaone4_5",
    "fuyu",
    "glm46v",
    "glmga",
    "lfm2_vl",
    "pp_chart2table",
)
